"""Heat maps of a classifier: gradient-weighted class activation maps."""

import keras
import numpy as np
import tensorflow as tf

from apps.common import images


def grad_cam(classifier, image_bytes):
    """Returns how strongly each part of an image supports the best class.

    Each feature map of the backbone is weighted by the mean gradient of the class's
    logit with respect to it. The weighted maps are summed. Negative sums support other
    classes and become 0.

    Args:
        classifier: A `signatures.Classifier`.
        image_bytes: An encoded image.

    Returns:
        float32 from 0 to 1, `(height, width)` in the proportions of the image; 0 where
        the classifier does not look.

    Reference:
        [Selvaraju et al., 2017](https://arxiv.org/abs/1610.02391), equations 1 and 2
    """
    model = classifier.model
    pooling, head = model.get_layer("pooling"), model.get_layer("scores")
    image = images.decode_image(image_bytes)
    height, width, _ = image.shape
    prepared = images.resize_image(image, classifier.image_size, classifier.resize)
    extract = keras.Model(model.input, pooling.input)
    features = extract(prepared[None], training=False)  # (1, rows, columns, channels)
    with tf.GradientTape() as tape:
        tape.watch(features)
        best = tf.reduce_max(tf.matmul(pooling(features), head.kernel) + head.bias)
    weights = tf.reduce_mean(tape.gradient(best, features), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))[0]
    heat = images.place_map(heat, height, width, classifier.resize)
    return heat / max(heat.max(), np.finfo("float32").tiny)
