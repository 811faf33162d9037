"""Region of interest pooling of Mask R-CNN."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class RoIAlign(keras.layers.Layer):
    """Cuts out the features of boxes, and brings them to the same size.

    Each box is divided into `size` × `size` bins. The features of a bin are the mean of
    `sampling_ratio` × `sampling_ratio` samples, which are interpolated bilinearly
    without rounding any coordinate. Samples more than one cell outside the map are 0;
    others outside are moved to its border.

    A box is pooled from the coarsest map on which it is at least `2 * size` cells wide
    (the square root of its area counts), and from the finest map if there is none. So
    a box of 224 pixels is pooled from stride 16 to a size of 7, as for feature
    pyramids.

    Bilinear interpolation is separable, so pooling is the product of the map with two
    matrices, which hold the weights of its rows and of its columns.

    Args:
        strides: The width of a cell of each map, in pixels, finest map first.
        size: Height and width of the output. Defaults to 7.
        sampling_ratio: Number of samples per bin along each axis. Defaults to 2.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A list of one feature map for each stride, and, as its last element, the
            boxes: `x1, y1, x2, y2`, "xyxy" in Keras, in pixels of the image. Boxes are
            not rounded to half precision.

    Input shape:
        A list of `(batch, height, width, channels)` for each map, and `(batch, n, 4)`.
        Height, width and n may be unknown.

    Output shape:
        `(batch, n, size, size, channels)`.

    Raises:
        ValueError: `size` or `sampling_ratio` is not a positive whole number, the
            strides are not positive and ascending, or there is not one map per stride.

    Example:

    >>> maps = [np.zeros((1, 16, 12, 32)), np.zeros((1, 8, 6, 32))]
    >>> boxes = np.array([[[0, 0, 50, 60], [10, 20, 30, 30]]], "float32")
    >>> layers.RoIAlign(strides=(8, 16))([*maps, boxes]).shape
    (1, 2, 7, 7, 32)

    References:
        - [He et al., 2017](https://arxiv.org/abs/1703.06870), section 3
        - [Lin et al., 2017](https://arxiv.org/abs/1612.03144), section 4.2: the choice
          of the map
    """

    def __init__(self, strides, size=7, sampling_ratio=2, **kwargs):
        # Half precision would move boxes by up to half a pixel.
        super().__init__(autocast=False, **kwargs)
        for name, value in (("size", size), ("sampling_ratio", sampling_ratio)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive whole number, for instance "
                    f"{name}=2. Received: {name}={value!r}"
                )
        if not strides or strides[0] <= 0 or list(strides) != sorted(set(strides)):
            raise ValueError(
                "`strides` must be positive and ascending, for instance "
                f"strides=(8, 16, 32). Received: strides={strides!r}"
            )
        self.strides = strides
        self.size = size
        self.sampling_ratio = sampling_ratio

    def build(self, input_shape):
        if len(input_shape) != len(self.strides) + 1:
            raise ValueError(
                f"`inputs` must be one map for each of the strides {self.strides}, and "
                f"the boxes. Received: {len(input_shape)} inputs"
            )

    def call(self, inputs):
        *maps, boxes = inputs
        boxes = keras.ops.cast(boxes, "float32")
        levels = self._levels(boxes)
        pooled = [
            self._pool(
                keras.ops.cast(features, self.compute_dtype),
                boxes / stride,
                keras.ops.cast(levels == level, "float32"),
            )
            for level, (features, stride) in enumerate(
                zip(maps, self.strides, strict=True)
            )
        ]
        return sum(pooled)

    def compute_output_shape(self, input_shape):
        features_shape, *_, (batch, n, _) = input_shape
        return (batch, n, self.size, self.size, features_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "strides": self.strides,
            "size": self.size,
            "sampling_ratio": self.sampling_ratio,
        }

    def _levels(self, boxes):
        """Returns the number of the map of each box, `(batch, n)`."""
        sides = keras.ops.maximum(boxes[..., 2:] - boxes[..., :2], 0)
        area = keras.ops.prod(sides, axis=-1)
        return sum(
            keras.ops.cast(area >= (2 * self.size * stride) ** 2, "int32")
            for stride in self.strides[1:]
        ) + keras.ops.zeros_like(area, dtype="int32")

    def _pool(self, features, boxes, is_here):
        """Returns the pooled features of the boxes of one map, and 0 for the others.

        Args:
            features: `(batch, height, width, channels)`.
            boxes: `(batch, n, 4)`, in cells.
            is_here: `(batch, n)`: 1 for the boxes of this map, else 0.
        """
        batch, height, width, channels = keras.ops.shape(features)
        rows = self._weights(boxes[..., 1], boxes[..., 3], height)
        rows = keras.ops.cast(rows * is_here[..., None, None], self.compute_dtype)
        columns = self._weights(boxes[..., 0], boxes[..., 2], width)
        columns = keras.ops.cast(columns, self.compute_dtype)

        # (n × size, height) @ (height, width × channels) for each image
        x = keras.ops.reshape(rows, (batch, -1, height))
        x = x @ keras.ops.reshape(features, (batch, height, width * channels))
        # (size, width) @ (width, channels) for each box and row of bins
        x = keras.ops.reshape(x, (batch, -1, self.size, width, channels))
        return keras.ops.expand_dims(columns, 2) @ x

    def _weights(self, start, end, length):
        """Returns the weight of each cell in each bin, along one axis.

        Args:
            start: `(batch, n)`: where the boxes start, in cells.
            end: `(batch, n)`: where they end.
            length: Number of cells.

        Returns:
            `(batch, n, size, length)`: rows with the sum 1, or less beyond the map.
        """
        num_samples = self.size * self.sampling_ratio
        steps = (keras.ops.arange(num_samples, dtype="float32") + 0.5) / num_samples
        start = keras.ops.expand_dims(start, -1)
        end = keras.ops.expand_dims(end, -1)
        samples = start + (end - start) * steps - 0.5  # The centre of cell 0 is 0.
        last = keras.ops.cast(length - 1, "float32")
        is_inside = (samples >= -1) & (samples <= last + 1)
        samples = keras.ops.expand_dims(keras.ops.clip(samples, 0, last), -1)
        cells = keras.ops.arange(length, dtype="float32")
        weights = keras.ops.relu(1 - keras.ops.abs(samples - cells))
        weights *= keras.ops.cast(keras.ops.expand_dims(is_inside, -1), "float32")
        batch, n = keras.ops.shape(start)[:2]
        shape = (batch, n, self.size, self.sampling_ratio, length)
        return keras.ops.mean(keras.ops.reshape(weights, shape), axis=3)
