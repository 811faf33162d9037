"""Boxes as distributions of the distances from a point to the four sides."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class BoxDecoder(keras.layers.Layer):
    """Decodes bounding boxes from distributions over distances.

    Each position of a feature map is a point: the centre of its cell in the image. The
    network answers one distribution for each of four distances: from the point to the
    left, top, right and bottom side of the box. The distances are counted in cells, and
    bin k stands for k cells. A decoded distance is the mean of its distribution. The
    distribution can express that a side is uncertain, and it is easier to learn than
    the distance itself.

    Boxes are `x1, y1, x2, y2`, "xyxy" in Keras, in pixels of the network's input. Half
    precision is too coarse for pixels, so pass `dtype="float32"` in a network that
    trains in mixed precision.

    Args:
        strides: The width of a cell of each map, in pixels, finest map first.
        num_bins: Number of bins of each distribution. The longest distance is
            `num_bins - 1` cells. Defaults to 16.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A list of maps of logits, one for each stride. The channels hold the
            bins of the left distance, then those of the top, right and bottom distance.

    Input shape:
        A list of `(batch, height, width, 4 * num_bins)`. Height and width may be
        unknown.

    Output shape:
        `(batch, points, 4)`: the boxes of all points of the first map, row by row, then
        those of the other maps.

    Raises:
        ValueError: `num_bins` is less than 2, a stride is not positive, or there is not
            one map with `4 * num_bins` channels for each stride.

    Example:

    >>> maps = [np.zeros((1, 4, 4, 64)), np.zeros((1, 2, 2, 64))]
    >>> layers.BoxDecoder(strides=(8, 16))(maps).shape
    (1, 20, 4)

    Reference:
        [Li et al., 2020](https://arxiv.org/abs/2006.04388), section 3.2
    """

    def __init__(self, strides, num_bins=16, **kwargs):
        super().__init__(**kwargs)
        if not strides or min(strides) <= 0:
            raise ValueError(
                "`strides` must be positive numbers, one for each map, for instance "
                f"strides=(8, 16, 32). Received: strides={strides!r}"
            )
        if not isinstance(num_bins, int) or num_bins < 2:
            raise ValueError(
                "`num_bins` must be a whole number of at least 2, for instance "
                f"num_bins=16. Received: num_bins={num_bins!r}"
            )
        self.strides = strides
        self.num_bins = num_bins

    def build(self, input_shape):
        channels = [shape[-1] for shape in input_shape]
        expected = [4 * self.num_bins] * len(self.strides)
        if channels != expected:
            raise ValueError(
                f"`inputs` must be one map for each of the strides {self.strides}, "
                f"with 4 × {self.num_bins} channels. Received maps with these numbers "
                f"of channels: {channels}"
            )

    def call(self, inputs):
        distances = [
            keras.ops.reshape(self._distances(bins), (keras.ops.shape(bins)[0], -1, 4))
            for bins in inputs
        ]
        points, strides = self.points(inputs)
        points = keras.ops.cast(points, self.compute_dtype)
        strides = keras.ops.cast(strides, self.compute_dtype)
        pixels = keras.ops.concatenate(distances, axis=1) * strides[:, None]
        return keras.ops.concatenate(
            [points - pixels[..., :2], points + pixels[..., 2:]], axis=-1
        )

    def compute_output_shape(self, input_shape):
        sizes = [shape[1:3] for shape in input_shape]
        is_known = all(None not in size for size in sizes)
        points = sum(height * width for height, width in sizes) if is_known else None
        return (input_shape[0][0], points, 4)

    def points(self, maps):
        """Returns the points of the maps, in the order of the decoded boxes.

        Args:
            maps: A list of maps `(batch, height, width, channels)`, one per stride; the
                channels do not matter.

        Returns:
            The points, float32 `(points, 2)`: x and y in pixels; and the stride of the
            map of each point, float32 `(points,)`.
        """
        points, strides = [], []
        for feature_map, stride in zip(maps, self.strides, strict=True):
            _, height, width, _ = keras.ops.shape(feature_map)
            x = (keras.ops.arange(width, dtype="float32") + 0.5) * stride
            y = (keras.ops.arange(height, dtype="float32") + 0.5) * stride
            grid = keras.ops.stack(keras.ops.meshgrid(x, y), axis=-1)
            points.append(keras.ops.reshape(grid, (-1, 2)))
            strides.append(keras.ops.full((height * width,), stride, dtype="float32"))
        return keras.ops.concatenate(points), keras.ops.concatenate(strides)

    def encode(self, boxes, points, strides):
        """Returns the distances from points to the sides of boxes.

        Args:
            boxes: `(..., points, 4)`: one box for each point.
            points: `(points, 2)`, as from `points`.
            strides: `(points,)`, as from `points`.

        Returns:
            `(..., points, 4)`: the distances to the left, top, right and bottom side in
            cells. They are clipped to the range from 0 to just below the last bin, so
            that there is a bin on either side of each distance.
        """
        pixels = keras.ops.concatenate(
            [points - boxes[..., :2], boxes[..., 2:] - points], axis=-1
        )
        return keras.ops.clip(pixels / strides[:, None], 0, self.num_bins - 1 - 0.01)

    def get_config(self):
        return {
            **super().get_config(),
            "strides": self.strides,
            "num_bins": self.num_bins,
        }

    def _distances(self, bins):
        """Returns the mean of each distribution, `(batch, height, width, 4, 1)`."""
        *size, _ = keras.ops.shape(bins)
        bins = keras.ops.reshape(bins, (*size, 4, self.num_bins))
        numbers = keras.ops.arange(self.num_bins, dtype=self.compute_dtype)
        return keras.ops.softmax(bins) @ numbers[:, None]
