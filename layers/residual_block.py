"""The basic residual block of ResNet-18 and ResNet-34."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class ResidualBlock(keras.layers.Layer):
    """Residual block: two 3×3 convolutions, added to their input.

    Computes `relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))`. The shortcut is the
    identity if input and output have the same shape. If they differ, it is a 1×1
    convolution with batch normalization. Gradients reach early layers through the
    shortcuts, so deep networks of these blocks are easy to train.

    Args:
        filters: Number of output channels.
        strides: Stride of the first convolution and of the shortcut. Defaults to 1.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A batch of images or feature maps.
        training: If True, batch normalization uses the statistics of the batch.

    Input shape:
        `(batch, height, width, channels)`. Height and width may be unknown.

    Output shape:
        `(batch, ceil(height / strides), ceil(width / strides), filters)`.

    Raises:
        ValueError: `filters` or `strides` is not a positive whole number.

    Example:

    >>> layers.ResidualBlock(32, strides=2)(np.zeros((1, 9, 8, 16))).shape
    (1, 5, 4, 32)

    Reference:
        [He et al., 2016](https://arxiv.org/abs/1512.03385), figure 2 and section 3.3
    """

    def __init__(self, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("filters", filters), ("strides", strides)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive whole number, for instance "
                    f"{name}=2. Received: {name}={value!r}"
                )
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        self.convolution_1 = self._convolution(3, self.strides, "convolution_1")
        self.normalization_1 = self._normalization("normalization_1")
        self.convolution_2 = self._convolution(3, 1, "convolution_2")
        self.normalization_2 = self._normalization("normalization_2")
        self.convolution_1.build(input_shape)
        inner_shape = self.convolution_1.compute_output_shape(input_shape)
        for layer in (self.normalization_1, self.convolution_2, self.normalization_2):
            layer.build(inner_shape)

        self.has_projection = self.strides > 1 or input_shape[-1] != self.filters
        if self.has_projection:
            self.projection = self._convolution(1, self.strides, "projection")
            self.projection.build(input_shape)
            self.projection_normalization = self._normalization(
                "projection_normalization"
            )
            self.projection_normalization.build(inner_shape)

    def call(self, inputs, training=None):
        x = self.convolution_1(inputs)
        x = self.normalization_1(x, training=training)
        x = keras.ops.relu(x)
        x = self.convolution_2(x)
        x = self.normalization_2(x, training=training)
        shortcut = inputs
        if self.has_projection:
            shortcut = self.projection(inputs)
            shortcut = self.projection_normalization(shortcut, training=training)
        return keras.ops.relu(x + shortcut)

    def compute_output_shape(self, input_shape):
        batch, *size, _ = input_shape
        size = [None if n is None else -(-n // self.strides) for n in size]
        return (batch, *size, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
        }

    def _convolution(self, kernel_size, strides, name):
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
        )

    def _normalization(self, name):
        # Keras' default momentum of 0.99 needs more steps than small data sets have.
        return keras.layers.BatchNormalization(
            momentum=0.9, dtype=self.dtype_policy, name=name
        )
