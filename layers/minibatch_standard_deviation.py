"""The standard deviation of a minibatch as a further feature map."""

import keras

EPSILON = 1e-8  # Keeps the gradient of the square root finite.


@keras.saving.register_keras_serializable(package="layers")
class MinibatchStandardDeviation(keras.layers.Layer):
    """Appends a feature map that tells how much the examples of a batch differ.

    Its value is the standard deviation over the batch, averaged over all places and
    channels: one number for the whole batch. A discriminator that sees it can tell a
    batch of like images from one of varied images, which keeps a generator from drawing
    few of them again and again.

    Args:
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A batch of feature maps.

    Input shape:
        `(batch, height, width, channels)`. Height and width may be unknown.

    Output shape:
        `(batch, height, width, channels + 1)`.

    Example:

    >>> layers.MinibatchStandardDeviation()(np.zeros((2, 4, 4, 16))).shape
    (2, 4, 4, 17)

    Reference:
        [Karras et al., 2018](https://arxiv.org/abs/1710.10196), section 3
    """

    def call(self, inputs):
        variance = keras.ops.var(inputs, axis=0)
        deviation = keras.ops.mean(keras.ops.sqrt(variance + EPSILON))
        feature_map = keras.ops.zeros_like(inputs[..., :1]) + deviation
        return keras.ops.concatenate([inputs, feature_map], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + 1)
