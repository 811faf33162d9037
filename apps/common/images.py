"""Image files: reading, decoding, resizing and colour jitter."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from apps.common.errors import BadInput

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp"}
# The formats that `tf.io.decode_image` decodes. MPO files of cameras begin with a JPEG.
FORMATS = {"JPEG", "MPO", "PNG", "GIF", "BMP"}

MAX_CACHE_BYTES = 2 * 2**30


def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one encoded image, inside a graph.

    16-bit and CMYK images become 8-bit RGB; transparent pixels are put on white.

    Args:
        image_bytes: Scalar string: a JPEG, PNG or BMP file, or the first frame of a GIF
            file.

    Returns:
        `(height, width, 3)`, float32 from 0 to 255.
    """
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: _jpeg(image_bytes),
        lambda: _png(image_bytes),
    )


def resize_image(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes an image to a square, with antialiasing.

    Args:
        image: `(height, width, 3)`, float32.
        size: Height and width of the result in pixels.

    Returns:
        `(size, size, 3)`, float32.
    """
    return tf.image.resize(image, (size, size), antialias=True)


def fit_image(
    image: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """Resizes an image to fit, and pads it with grey at the bottom or at the right.

    The aspect ratio is kept.

    Args:
        image: `(rows, columns, 3)`, float32 from 0 to 255, of any size.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        The padded image, float32 `(height, width, 3)`, and the height and width of the
        image inside it.
    """
    rows, columns = tf.unstack(tf.shape(image)[:2])
    # Integer arithmetic, so that a device rounds in the same way.
    is_narrow = rows * width > columns * height
    inner_rows = tf.where(
        is_narrow, height, (2 * rows * width + columns) // (2 * columns)
    )
    inner_columns = tf.where(
        is_narrow, (2 * columns * height + rows) // (2 * rows), width
    )
    inner = (tf.maximum(1, inner_rows), tf.maximum(1, inner_columns))
    image = tf.image.resize(image, inner, antialias=True)
    padding = ((0, height - inner[0]), (0, width - inner[1]), (0, 0))
    image = tf.pad(image, padding, constant_values=127.5)
    return tf.ensure_shape(image, (height, width, 3)), inner


def color_jitter(strength: float, seed: int) -> keras.Model:
    """Returns a model that changes brightness, contrast and saturation at random.

    Args:
        strength: From 0, no change, to 1, where contrast and saturation may vanish or
            double.
        seed: Seed of the random changes.
    """
    # Pixels stay float32 in every precision. They are scaled to [0, 1] because Keras'
    # random saturation gives negative pixels for larger ranges.
    jitter = keras.layers.RandomColorJitter(
        value_range=(0, 1),
        brightness_factor=strength / 4,  # More would turn dark images black.
        contrast_factor=strength,
        # In Keras 0 is grey, 0.5 changes nothing and 1 is the strongest saturation.
        saturation_factor=(0.5 - strength / 2, 0.5 + strength / 2),
        seed=seed,
        dtype="float32",
    )
    return keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255, dtype="float32"),
            jitter,
            keras.layers.Rescaling(255.0, dtype="float32"),
        ]
    )


def read_image(path: Path) -> bytes:
    """Returns the bytes of an image file, after decoding it as a check.

    Raises:
        BadInput: The file is missing, not an image, truncated or too large.
    """
    try:
        image_bytes = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    reason = why_unreadable(image_bytes)
    if reason:
        raise BadInput(f"{path} {reason}")
    return image_bytes


def why_unreadable(image_bytes: bytes) -> str | None:
    """Returns why an encoded image cannot be used, and the remedy; None if it can."""
    try:
        with Image.open(io.BytesIO(image_bytes)) as image:
            if image.format not in FORMATS:
                return f"is a {image.format} image; convert it to JPEG or PNG"
            if image.format == "BMP" and image.mode in ("1", "P"):
                return "is a BMP image with a palette; convert it to PNG"
            image.load()
        tf.io.decode_image(image_bytes, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return "is damaged or truncated; replace it"
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"has more than {limit} million pixels; make it smaller"
    except Image.UnidentifiedImageError:
        return "is not an image; expected JPEG, PNG, BMP or GIF"
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return f"is damaged or truncated ({error}); replace it"
    return None


def load_and_shuffle(
    dataset: tf.data.Dataset,
    load: Callable[..., Any],
    num_bytes: int,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Loads the examples of a data set, caches them if they are small, shuffles them.

    Args:
        dataset: What `load` takes, one element per example.
        load: Loads one example.
        num_bytes: The size of all loaded examples. Up to `MAX_CACHE_BYTES` they are
            kept in memory.
        seed: Seed of the order; None keeps the order.
    """

    def shuffle(examples):
        return examples if seed is None else examples.shuffle(len(dataset), seed=seed)

    if num_bytes <= MAX_CACHE_BYTES:
        return shuffle(dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).cache())
    return shuffle(dataset).map(load, num_parallel_calls=tf.data.AUTOTUNE)


def list_images(folder: Path) -> list[Path]:
    """Returns the image files directly in a folder, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    )


def find_readable(paths: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
    """Returns which image files can be read, and why the others cannot.

    Args:
        paths: The files.

    Returns:
        A boolean array that is true for readable files, and one sentence for each
        other file.
    """

    def problem(path):
        try:
            read_image(path)
        except BadInput as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, paths))
    return np.array([not problem for problem in problems]), list(filter(None, problems))


def _jpeg(image_bytes):
    # TensorFlow's default is faster but differs by a grey level; this one decodes
    # exactly as Pillow does on the device.
    pixels = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cast(pixels, tf.float32)


def _png(image_bytes):
    pixels = tf.io.decode_image(image_bytes, channels=0, expand_animations=False)
    pixels = tf.cast(pixels, tf.float32)
    height, width, channels = tf.unstack(tf.shape(pixels))
    colors = tf.cond(channels < 3, lambda: pixels[..., :1], lambda: pixels[..., :3])
    opacity = tf.cond(
        channels % 2 == 0,
        lambda: pixels[..., -1:] / 255,
        lambda: tf.ones_like(pixels[..., :1]),
    )
    on_white = colors * opacity + 255 * (1 - opacity)
    return tf.broadcast_to(on_white, [height, width, 3])
