"""The standard deviations of a minibatch as further feature maps."""

import keras

EPSILON = 1e-6  # Keeps the gradient of the square root finite.


@keras.saving.register_keras_serializable(package="layers")
class MinibatchStandardDeviation(keras.layers.Layer):
    """Appends feature maps that tell how much the examples of a batch differ.

    For each channel there is one more, whose value is the channel's standard deviation
    over the batch, averaged over all positions. A discriminator that sees them can tell
    a batch of similar images from one of varied images, which keeps a generator from
    drawing few of them again and again. The paper averages over the channels, too.

    Args:
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A batch of feature maps.

    Input shape:
        `(batch, height, width, channels)`. Height and width may be unknown.

    Output shape:
        `(batch, height, width, 2 * channels)`.

    Example:

    >>> layers.MinibatchStandardDeviation()(np.zeros((2, 4, 4, 16))).shape
    (2, 4, 4, 32)

    Reference:
        [Karras et al., 2018](https://arxiv.org/abs/1710.10196), section 3
    """

    def call(self, inputs):
        variances = keras.ops.var(inputs, axis=0, keepdims=True)
        deviations = keras.ops.sqrt(variances + EPSILON)
        means = keras.ops.mean(deviations, axis=(1, 2), keepdims=True)
        return keras.ops.concatenate(
            [inputs, keras.ops.zeros_like(inputs) + means], axis=-1
        )

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2 * input_shape[-1])
