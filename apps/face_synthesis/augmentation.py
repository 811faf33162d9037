"""Differentiable augmentation: random changes of what a discriminator sees.

Real and drawn images are changed alike, and gradients reach the generator through the
change. So the discriminator cannot learn few real images by heart, and the generator
does not learn to draw the changes.

Reference:
    [Zhao et al., 2020](https://arxiv.org/abs/2006.10738)
"""

import tensorflow as tf

MAX_SHIFT = 1 / 8  # Of the size of the image.
CUTOUT_SIZE = 1 / 2


def augment(images, names, seed):
    """Changes images at random.

    Args:
        images: float32 `(batch, size, size, 3)` from −1 to 1.
        names: Some of `color`, `translation` and `cutout`.
        seed: int32 `(2,)`; the same seed makes the same changes.

    Returns:
        The changed images; what is cut out or moved in is 0.
    """
    changes = {"color": _color, "translation": _translation, "cutout": _cutout}
    for name, part in zip(changes, _split(seed, len(changes)), strict=True):
        if name in names:
            images = changes[name](images, part)
    return images


def _color(images, seed):
    """Changes brightness, saturation and contrast."""
    shape = (3, tf.shape(images)[0], 1, 1, 1)
    brightness, saturation, contrast = tf.unstack(
        tf.random.stateless_uniform(shape, seed)
    )
    images = images + brightness - 0.5
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + (images - grey) * 2 * saturation
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * (0.5 + contrast)


def _translation(images, seed):
    """Moves images by up to `MAX_SHIFT` in both directions."""
    size = images.shape[1]
    largest = round(MAX_SHIFT * size)
    shape = (2, tf.shape(images)[0], 1)
    shifts = tf.random.stateless_uniform(
        shape, seed, -largest, largest + 1, dtype=tf.int32
    )
    # The row of a one-hot matrix is zero where nothing is moved in.
    sources = tf.one_hot(tf.range(size) + shifts, size, dtype=images.dtype)
    return tf.einsum("bij,bjkc,blk->bilc", sources[0], images, sources[1])


def _cutout(images, seed):
    """Hides a square, part of which may lie outside."""
    size = images.shape[1]
    half = round(CUTOUT_SIZE * size) // 2
    shape = (2, tf.shape(images)[0], 1)
    centers = tf.random.stateless_uniform(shape, seed, 0, size + 1, dtype=tf.int32)
    is_near = tf.abs(2 * (tf.range(size) - centers) + 1) < 2 * half
    is_hidden = is_near[0, :, :, None] & is_near[1, :, None, :]
    return images * tf.cast(~is_hidden, images.dtype)[..., None]


def _split(seed, number):
    """Returns so many independent seeds, made from one."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, number))
