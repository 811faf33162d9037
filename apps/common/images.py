"""Image files: which can be read, and how their pixels are prepared."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from apps.common.errors import BadInput

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp"}
# What `tf.io.decode_image` decodes; a camera's multi-picture file begins with a JPEG.
FORMATS = {"JPEG", "MPO", "PNG", "GIF", "BMP"}


def decode_image(image_bytes):
    """Decodes one encoded image, inside a graph.

    Sixteen-bit and CMYK images become eight-bit RGB; transparency is laid on white.

    Args:
        image_bytes: Scalar string: a JPEG, PNG, BMP or GIF file, of which the first
            frame counts.

    Returns:
        `(height, width, 3)`, float32 from 0 to 255.
    """
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: _jpeg(image_bytes),
        lambda: _png(image_bytes),
    )


def resize_image(image, size):
    """Resizes to a square of `size` pixels, without aliasing when it shrinks.

    Args:
        image: `(height, width, 3)`, float32.
        size: Height and width of the result in pixels.

    Returns:
        `(size, size, 3)`, float32.
    """
    return tf.image.resize(image, (size, size), antialias=True)


def fit_image(image, height, width):
    """Resizes an image as large as fits, and pads it with grey below or to the right.

    Args:
        image: `(rows, columns, 3)`, float32 from 0 to 255, of any size.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        `(height, width, 3)`, float32, and the height and width that the image takes up
        in it.
    """
    rows, columns = tf.unstack(tf.shape(image)[:2])
    # Whole numbers, so that a device rounds alike.
    narrow = rows * width > columns * height
    inner_rows = tf.where(narrow, height, (2 * rows * width + columns) // (2 * columns))
    inner_columns = tf.where(narrow, (2 * columns * height + rows) // (2 * rows), width)
    inner = (tf.maximum(1, inner_rows), tf.maximum(1, inner_columns))
    image = tf.image.resize(image, inner, antialias=True)
    padding = ((0, height - inner[0]), (0, width - inner[1]), (0, 0))
    image = tf.pad(image, padding, constant_values=127.5)
    return tf.ensure_shape(image, (height, width, 3)), inner


def color_jitter(strength, seed):
    """Returns a model that changes brightness, contrast and saturation at random.

    Args:
        strength: 0 changes nothing; 1 changes contrast and saturation by up to all.
        seed: Fixes the changes.
    """
    # Pixels stay float32, whatever the precision of the training. They are scaled since
    # Keras clips saturation to the range of the pixels; beyond 1 it would give negative
    # ones.
    jitter = keras.layers.RandomColorJitter(
        value_range=(0, 1),
        brightness_factor=strength / 4,  # More would turn dark pictures black.
        contrast_factor=strength,
        # To Keras 0 is grey, 0.5 leaves the colours alone and 1 is the strongest.
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


def read_image(path: Path):
    """Returns the bytes of an image file that can be decoded to its end.

    Raises:
        BadInput: The file is missing, is no image, is cut short or too large.
    """
    try:
        image_bytes = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    reason = unreadable(image_bytes)
    if reason:
        raise BadInput(f"{path} {reason}")
    return image_bytes


def unreadable(image_bytes):
    """Returns why an encoded image cannot be used and what to do, or None."""
    try:
        with Image.open(io.BytesIO(image_bytes)) as image:
            if image.format not in FORMATS:
                return f"is a {image.format} image; convert it to JPEG or PNG"
            if image.format == "BMP" and image.mode in ("1", "P"):
                return "is a BMP image with a palette; convert it to PNG"
            image.load()
        tf.io.decode_image(image_bytes, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return "is damaged or cut short; replace it"
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        return f"has more than {limit} million pixels; make it smaller"
    except Image.UnidentifiedImageError:
        return "is not an image; expected JPEG, PNG, BMP or GIF"
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return f"is damaged or cut short ({error}); replace it"
    return None


def list_images(folder: Path):
    """Returns the image files directly in a folder, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    )


def skip_unreadable(paths):
    """Splits image files into those that can be read and those that cannot.

    Args:
        paths: The files.

    Returns:
        A boolean array that marks the readable files, and one sentence for each of
        the others.
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
    # TensorFlow's default transform trades a grey level for speed; this one decodes
    # exactly as Pillow does on the device.
    pixels = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cast(pixels, tf.float32)


def _png(image_bytes):
    pixels = tf.io.decode_image(image_bytes, channels=0, expand_animations=False)
    pixels = tf.cast(pixels, tf.float32)
    height, width, channels = tf.unstack(tf.shape(pixels))
    colours = tf.cond(channels < 3, lambda: pixels[..., :1], lambda: pixels[..., :3])
    opacity = tf.cond(
        channels % 2 == 0,
        lambda: pixels[..., -1:] / 255,
        lambda: tf.ones_like(pixels[..., :1]),
    )
    on_white = colours * opacity + 255 * (1 - opacity)
    return tf.broadcast_to(on_white, [height, width, 3])
