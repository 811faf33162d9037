"""Samples of Gaussian distributions by the reparameterization trick."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class GaussianSampling(keras.layers.Layer):
    """Draws from Gaussian distributions of given means and variances.

    Computes `mean + exp(log_variance / 2) * noise` with standard normal noise, so that
    gradients reach the mean and the variance (the reparameterization trick of
    variational autoencoders). Outside training the layer returns the mean.

    Args:
        seed: Seed of the noise. Defaults to None.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: The means and the logarithms of the variances.
        training: If True, draw samples. Defaults to False.

    Input shape:
        Two tensors of the same shape, `(batch, size)`.

    Output shape:
        `(batch, size)`.

    Example:

    >>> means, log_variances = np.zeros((2, 8)), np.zeros((2, 8))
    >>> layers.GaussianSampling()([means, log_variances], training=True).shape
    (2, 8)

    Reference:
        [Kingma and Welling, 2014](https://arxiv.org/abs/1312.6114), section 2.4
    """

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        mean, log_variance = inputs
        if not training:
            return mean
        noise = keras.random.normal(
            keras.ops.shape(mean), dtype=mean.dtype, seed=self.seed_generator
        )
        return mean + keras.ops.exp(log_variance / 2) * noise

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
