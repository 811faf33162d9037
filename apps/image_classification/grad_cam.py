"""Heat maps of a classifier: gradient-weighted class activation maps."""

import keras
import numpy as np
import tensorflow as tf

from apps.common import images


def grad_cam(model, image_bytes):
    """Returns how strongly each part of an image supports the best class.

    Each feature map of the backbone is weighted by the mean gradient of the class's
    logit with respect to it. The weighted maps are summed. Negative sums support other
    classes and become 0.

    Args:
        model: A trained model from `build_model`.
        image_bytes: An encoded image.

    Returns:
        float32 `(rows, columns)` from 0 to 1, a coarse map of the image.

    Reference:
        [Selvaraju et al., 2017](https://arxiv.org/abs/1610.02391), equations 1 and 2
    """
    pooling, normalization, head = map(
        model.get_layer, ("pooling", "normalization", "scores")
    )
    image = images.resize_image(images.decode_image(image_bytes), model.input_shape[1])
    extract = keras.Model(model.input, pooling.input)
    features = extract(image[None], training=False)  # (1, rows, columns, channels)
    with tf.GradientTape() as tape:
        tape.watch(features)
        x = normalization(pooling(features), training=False)
        best = tf.reduce_max(tf.matmul(x, head.kernel) + head.bias)
    weights = tf.reduce_mean(tape.gradient(best, features), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))[0].numpy()
    return heat / max(heat.max(), np.finfo("float32").tiny)
