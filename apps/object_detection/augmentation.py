"""Random changes of training images that move their boxes too."""

import numpy as np
import tensorflow as tf

from apps.common import images
from apps.object_detection.config import CROWD, PADDING

# What must be left of a box that is trained.
MIN_VISIBLE_FRACTION = 0.25
MIN_SIDE = 2  # Pixels.
# Where the four images of a mosaic meet, as fractions of the width and the height.
MOSAIC_CORNER = (0.2, 0.8)


def build_augmentation(config):
    """Returns a function that changes a batch of images and boxes at random.

    It resizes, moves and mirrors each image, composes some of four images of the batch
    (mosaic), and changes colours. Where there is no image, it is grey.

    Reference:
        Mosaic: [Bochkovskiy et al., 2020](https://arxiv.org/abs/2004.10934), figure 3
    """
    jitter_colors = images.color_jitter(config.color, config.seed)
    size = tf.constant(config.image_size[::-1], tf.float32)  # Width and height.

    def augment(pixels, boxes, classes):
        batch = tf.shape(pixels)[0]
        # The four tiles meet in a corner or, without a mosaic, at the bottom right.
        is_mosaic = tf.random.uniform([batch, 1]) < config.mosaic
        corner = tf.random.uniform([batch, 2], *MOSAIC_CORNER)
        corner = size * tf.where(is_mosaic, corner, 1)
        tiles, boxes_of_tiles = [], []
        for number in range(4 if config.mosaic else 1):
            is_second = tf.constant([number % 2 == 1, number // 2 == 1])
            start = tf.where(is_second, corner, 0)
            end = tf.where(is_second, size, corner)
            scale, shift = _random_place(start, end, size, config)
            # Each tile shows the image of another example.
            tile, *tile_boxes = (
                tf.roll(each, number, axis=0) for each in (pixels, boxes, classes)
            )
            tiles.append(_move_pixels(tile, scale, shift))
            boxes_of_tiles.append(_move_boxes(*tile_boxes, scale, shift, start, end))
        pixels = _compose(tiles, corner)
        boxes, classes = (
            tf.concat(each, axis=1) for each in zip(*boxes_of_tiles, strict=True)
        )
        boxes, classes = _drop_padding(boxes, classes)
        if config.color:
            pixels = jitter_colors(pixels, training=True)
        return pixels, boxes, classes

    return augment


def _random_place(start, end, size, config):
    """Draws where the images are shown: pixels are multiplied and then shifted.

    An image that is larger than its tile fills it, a smaller one lies inside. The
    factors of mirrored images are negative.

    Args:
        start: Left and top of each tile in pixels, `(batch, 2)`.
        end: Right and bottom of each tile.
        size: Width and height of the images.
        config: Gives the augmentation.

    Returns:
        The factors and the shifts for x and y, float32 `(batch, 2)`.
    """
    batch = tf.shape(start)[0]
    low, high = np.log(config.scale)
    scale = tf.exp(tf.random.uniform([batch, 1], low, high)) * tf.ones([1, 2])
    shift = start + tf.random.uniform([batch, 2]) * (end - start - scale * size)
    may_mirror = tf.constant([config.flip, config.flip_vertically])
    is_mirrored = (tf.random.uniform([batch, 2]) < 0.5) & may_mirror
    return (
        tf.where(is_mirrored, -scale, scale),
        tf.where(is_mirrored, shift + scale * size, shift),
    )


def _move_pixels(pixels, scale, shift):
    """Returns images `(batch, height, width, 3)`, resized and shifted, on grey."""
    batch, (height, width) = tf.shape(pixels)[0], pixels.shape[1:3]
    last = tf.constant([width - 1, height - 1], tf.float32)
    # Where the centres of the first and the last pixel come from, as fractions.
    first = ((0.5 - shift) / scale - 0.5) / last
    final = ((last + 0.5 - shift) / scale - 0.5) / last
    sources = tf.concat([first[:, ::-1], final[:, ::-1]], axis=1)
    return tf.image.crop_and_resize(
        pixels, sources, tf.range(batch), (height, width), extrapolation_value=127.5
    )


def _move_boxes(boxes, classes, scale, shift, start, end):
    """Returns boxes and classes, resized, shifted and clipped to a tile.

    Boxes of which too little is left become padding.

    Args:
        boxes: `(batch, n, 4)`.
        classes: `(batch, n)`.
        scale: From `_random_place`.
        shift: From `_random_place`.
        start: Left and top of each tile, `(batch, 2)`.
        end: Right and bottom of each tile.
    """
    corners = tf.reshape(boxes, (tf.shape(boxes)[0], -1, 2, 2))
    corners = corners * scale[:, None, None] + shift[:, None, None]
    top_left, bottom_right = tf.reduce_min(corners, 2), tf.reduce_max(corners, 2)
    area = tf.reduce_prod(bottom_right - top_left, axis=-1)
    top_left = tf.maximum(top_left, start[:, None])
    bottom_right = tf.minimum(bottom_right, end[:, None])
    sides = tf.maximum(bottom_right - top_left, 0)
    is_visible = tf.reduce_prod(sides, axis=-1) >= MIN_VISIBLE_FRACTION * area
    is_large = tf.reduce_all(sides >= MIN_SIDE, axis=-1)
    is_kept = is_large & (is_visible | (classes == CROWD))
    boxes = tf.concat([top_left, bottom_right], axis=-1)
    return tf.where(is_kept[..., None], boxes, 0), tf.where(is_kept, classes, PADDING)


def _compose(tiles, corner):
    """Composes images of four tiles, or of one, that meet in a corner."""
    if len(tiles) == 1:
        return tiles[0]
    height, width = tiles[0].shape[1:3]
    x, y = (tf.range(side, dtype=tf.float32) + 0.5 for side in (width, height))
    is_left = (x < corner[:, :1])[:, None, :, None]
    is_top = (y < corner[:, 1:])[:, :, None, None]
    return tf.where(
        is_top,
        tf.where(is_left, tiles[0], tiles[1]),
        tf.where(is_left, tiles[2], tiles[3]),
    )


def _drop_padding(boxes, classes):
    """Returns boxes and classes with the least padding, which is at the end."""
    is_padding = tf.cast(classes == PADDING, tf.int32)
    order = tf.argsort(is_padding, axis=1, stable=True)
    num_boxes = tf.reduce_max(tf.reduce_sum(1 - is_padding, axis=1))
    order = order[:, :num_boxes]
    return tuple(tf.gather(each, order, batch_dims=1) for each in (boxes, classes))
