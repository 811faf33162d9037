"""Image files: which can be read, and how their pixels are prepared."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
