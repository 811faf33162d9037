"""Feature pyramid network: maps of several resolutions that all know the context."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="layers")
class FeaturePyramid(keras.layers.Layer):
    """Adds the context of coarse feature maps to fine ones, for objects of all sizes.

    A 1×1 convolution with batch normalization brings each map to the same number of
    channels. From coarse to fine, each map is resized to the size of the next one and
    added to it. With `bottom_up`, a second path goes back from fine to coarse: a 3×3
    convolution with stride 2, batch normalization and ReLU, added to the next map. On
    each level, 3×3 convolutions with batch normalization and ReLU follow the additions.

    The layer is one functional model, its attribute `network`, so that
    `saved_models.fold_batch_normalization` can fold it.

    Args:
        filters: Number of channels of each output.
        bottom_up: If True, adds the second path of PANet. Defaults to False.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A list of feature maps, finest first.
        training: If True, batch normalization uses the statistics of the batch.

    Input shape:
        A list of `(batch, height, width, channels)`. Each map has about half the height
        and width of the one before; exactly half, rounded up, with `bottom_up`. Height
        and width may be unknown.

    Output shape:
        A list of `(batch, height, width, filters)`, of the sizes of the inputs.

    Raises:
        ValueError: `filters` is not a positive whole number.

    Example:

    >>> maps = [np.zeros((1, 16, 12, 24)), np.zeros((1, 8, 6, 48))]
    >>> [each.shape for each in layers.FeaturePyramid(32)(maps)]
    [(1, 16, 12, 32), (1, 8, 6, 32)]

    References:
        - [Lin et al., 2017](https://arxiv.org/abs/1612.03144), section 3
        - [Liu et al., 2018](https://arxiv.org/abs/1803.01534), section 3.2: the second
          path
    """

    def __init__(self, filters, bottom_up=False, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(filters, int) or filters < 1:
            raise ValueError(
                "`filters` must be a positive whole number, for instance filters=96. "
                f"Received: filters={filters!r}"
            )
        self.filters = filters
        self.bottom_up = bottom_up

    def build(self, input_shape):
        inputs = [
            keras.Input((None, None, channels), dtype=self.compute_dtype)
            for *_, channels in input_shape
        ]
        maps = self._add_coarse_to_fine(inputs)
        if self.bottom_up:
            maps = self._add_fine_to_coarse(maps)
        self.network = keras.Model(inputs, maps, name=self.name)

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return [(*shape[:-1], self.filters) for shape in input_shape]

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "bottom_up": self.bottom_up,
        }

    def _add_coarse_to_fine(self, inputs):
        maps = [
            self._normalize(self._convolve(x, 1, 1, f"lateral_{level}"))
            for level, x in enumerate(inputs)
        ]
        for level in reversed(range(len(maps) - 1)):
            add = _AddResized(dtype=self.dtype_policy, name=f"add_down_{level}")
            maps[level] = add([maps[level], maps[level + 1]])
        return [
            self._convolve_and_activate(x, 1, f"down_{level}")
            for level, x in enumerate(maps)
        ]

    def _add_fine_to_coarse(self, maps):
        x, *coarser = maps
        outputs = [x]
        for level, lateral in enumerate(coarser, start=1):
            x = self._convolve_and_activate(x, 2, f"stride_{level}")
            add = keras.layers.Add(dtype=self.dtype_policy, name=f"add_up_{level}")
            x = self._convolve_and_activate(add([lateral, x]), 1, f"up_{level}")
            outputs.append(x)
        return outputs

    def _convolve_and_activate(self, x, strides, name):
        x = self._normalize(self._convolve(x, 3, strides, name))
        return keras.layers.ReLU(dtype=self.dtype_policy)(x)

    def _convolve(self, x, kernel_size, strides, name):
        # The normalization that follows has a bias, so the convolution needs none.
        return keras.layers.Conv2D(
            self.filters,
            kernel_size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name=name,
        )(x)

    def _normalize(self, x):
        # Keras' default momentum of 0.99 needs more steps than small data sets have.
        return keras.layers.BatchNormalization(momentum=0.9, dtype=self.dtype_policy)(x)


class _AddResized(keras.layers.Layer):
    """Resizes a coarse map to the size of a fine one, and adds both.

    `keras.layers.UpSampling2D` and `keras.ops.image.resize` take no unknown sizes.
    """

    def call(self, inputs):
        fine, coarse = inputs
        size = keras.ops.shape(fine)[1:3]
        return fine + tf.image.resize(coarse, size, "nearest")

    def compute_output_shape(self, input_shape):
        fine_shape, _ = input_shape
        return fine_shape
