"""The convolution of StyleGAN2, whose channels a latent vector scales."""

import keras

EPSILON = 1e-8  # Keeps the demodulation finite.


@keras.saving.register_keras_serializable(package="layers")
class ModulatedConv2D(keras.layers.Layer):
    """Convolution whose kernel is scaled for each example by a latent vector.

    A linear layer turns the latent vector into a scale `s` for each input channel. The
    kernel of an example is `s * kernel`, and demodulation divides it by its norm, so
    that each output channel keeps its variance. Scaling the input and the output does
    the same without a kernel for each example, which grouped convolutions would need:

        outputs = convolve(s * inputs, kernel) * demodulation + bias
        demodulation = 1 / sqrt(sum over channels of s² * sum over places of kernel²)

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel. Defaults to 3.
        demodulate: Whether to divide by the norm of the scaled kernel. Defaults to
            True; the output to colours has none.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A batch of feature maps, and a latent vector for each.

    Input shape:
        `(batch, height, width, channels)` and `(batch, size)`. Height and width may be
        unknown.

    Output shape:
        `(batch, height, width, filters)`.

    Raises:
        ValueError: `filters` or `kernel_size` is not a positive whole number.

    Example:

    >>> maps, latents = np.zeros((2, 8, 8, 16)), np.zeros((2, 64))
    >>> layers.ModulatedConv2D(32)([maps, latents]).shape
    (2, 8, 8, 32)

    Reference:
        [Karras et al., 2020](https://arxiv.org/abs/1912.04958), section 2.2
    """

    def __init__(self, filters, kernel_size=3, demodulate=True, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("filters", filters), ("kernel_size", kernel_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive whole number, for instance "
                    f"{name}=3. Received: {name}={value!r}"
                )
        self.filters = filters
        self.kernel_size = kernel_size
        self.demodulate = demodulate

    def build(self, input_shape):
        (*_, channels), (_, size) = input_shape
        self.kernel = self.add_weight(
            shape=(self.kernel_size, self.kernel_size, channels, self.filters),
            # Without demodulation the kernel decides how large the output is.
            initializer=keras.initializers.VarianceScaling(
                2.0 if self.demodulate else 0.1
            ),
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )
        self.style_kernel = self.add_weight(
            shape=(size, channels), initializer="glorot_uniform", name="style_kernel"
        )
        self.style_bias = self.add_weight(
            shape=(channels,), initializer="ones", name="style_bias"
        )

    def call(self, inputs):
        maps, latents = inputs
        scale = keras.ops.matmul(latents, self.style_kernel) + self.style_bias
        x = keras.ops.conv(maps * self._over_places(scale), self.kernel, padding="same")
        if self.demodulate:
            squares = keras.ops.sum(keras.ops.square(self.kernel), axis=(0, 1))
            norm = keras.ops.matmul(keras.ops.square(scale), squares)
            x = x * self._over_places(keras.ops.rsqrt(norm + EPSILON))
        return x + self.bias

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "demodulate": self.demodulate,
        }

    def _over_places(self, values):
        """Returns `(batch, channels)` as `(batch, 1, 1, channels)`."""
        return keras.ops.expand_dims(values, (1, 2))
