"""Baselines: the mean of real faces, and real faces that are blurred.

A distance that is not far below theirs says that a model has learned colours alone.
"""

import numpy as np
import tensorflow as tf

from apps.common import baselines, datasets
from apps.face_synthesis import metrics
from apps.face_synthesis.data import load_pixels

BLURRED_PIXELS = 8  # Blurred faces have this size, and are enlarged again.
NUM_BLURRED = 1000  # Training faces, at most.
NAME = f"training faces blurred to {BLURRED_PIXELS} × {BLURRED_PIXELS} pixels"


def measure(splits, features, config, run):
    """Scores blurred training faces, records the scores, and prints them.

    Args:
        splits: The `Examples` by split.
        features: The `metrics.Features`.
        config: A `Config`.
        run: The run directory.

    Returns:
        The record of `baselines.write`.
    """
    some = datasets.evenly(splits["train"], NUM_BLURRED)
    blurred = features(blur(load_pixels(some, config)))
    record = {"name": NAME}
    for split in ("validation", "test"):
        some = datasets.evenly(splits[split], metrics.MAX_FACES)
        real = features(load_pixels(some, config))
        record[split] = {"frechet_distance": metrics.frechet_distance(blurred, real)}
    baselines.write(run, record)
    return record


def blur(pixels):
    """Returns images that are shrunk and enlarged again, uint8 `(n, size, size, 3)`."""
    size = pixels.shape[1:3]
    small = tf.image.resize(pixels, 2 * [BLURRED_PIXELS], antialias=True)
    return _to_bytes(tf.image.resize(small, size))


def mean_color(pixels):
    """Returns images of the mean colour of each image, uint8 `(n, size, size, 3)`."""
    means = tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2), keepdims=True)
    return _to_bytes(tf.broadcast_to(means, pixels.shape))


def _to_bytes(images):
    return np.rint(images).clip(0, 255).astype("uint8")
