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
    heat = place(heat, height, width, classifier.resize)
    return heat / max(heat.max(), np.finfo("float32").tiny)


def place(heat, height, width, resize):
    """Returns a map of the prepared square as a map of the whole image.

    Args:
        heat: The map, float32 `(rows, columns, 1)`.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        resize: How the image became square, as for `images.resize_image`.

    Returns:
        float32 `(height, width)`.
    """
    if resize == "crop":
        side = min(height, width)
        heat = tf.image.resize(heat, (side, side))
        top, left = (height - side) // 2, (width - side) // 2
        heat = tf.image.pad_to_bounding_box(heat, top, left, height, width)
    elif resize == "pad":  # Padding is at the bottom or at the right.
        side = max(height, width)
        heat = tf.image.resize(heat, (side, side))[:height, :width]
    else:
        heat = tf.image.resize(heat, (height, width))
    return heat[..., 0].numpy()
