"""Image files: reading, converting, decoding, resizing and colour jitter."""

import atexit
import contextlib
import functools
import hashlib
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from apps.common.errors import BadInput

with contextlib.suppress(ImportError):  # Not everybody has HEIC files.
    import pillow_heif

    pillow_heif.register_heif_opener()

# The formats that `tf.io.decode_image` decodes. MPO files of cameras begin with a JPEG.
FORMATS = {"JPEG", "MPO", "PNG", "GIF", "BMP"}
# Formats of photographs, which lose details as JPEG does.
LOSSY_FORMATS = {"AVIF", "HEIF", "JPEG2000", "WEBP"}
# What the four bytes after `ftyp` are in a HEIC file.
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
SYSTEM_FILES = {"desktop.ini", "Thumbs.db"}

MAX_CACHE_BYTES = 2 * 2**30
# The first segments of a JPEG file, in which its orientation is searched.
MAX_SEGMENTS = 256


def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one encoded image, inside a graph.

    A JPEG file is turned upright, as its camera recorded (Exif). 16-bit and CMYK images
    become 8-bit RGB; transparent pixels are put on white.

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


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def read_orientation(jpeg: tf.Tensor) -> tf.Tensor:
    """Reads the orientation that a camera recorded in a JPEG file, inside a graph.

    The orientation is tag 0x0112 in the first directory of the Exif data.

    Args:
        jpeg: Scalar string: a JPEG file.

    Returns:
        int32 scalar from 1 to 8; 1, upright, if the file has no Exif data or they are
        damaged.
    """
    exif = _find_exif(jpeg)
    byte_order = tf.strings.substr(exif, 0, 4)
    is_big_endian = byte_order == b"MM\0*"
    is_tiff = is_big_endian | (byte_order == b"II*\0")

    def number(octets):
        weights = 256 ** np.arange(octets.shape[-1])
        weights = tf.where(is_big_endian, weights[::-1], weights)
        return tf.reduce_sum(octets * weights, axis=-1)

    size = tf.cast(tf.strings.length(exif), tf.int64)
    start = tf.minimum(number(_octets(exif, 4, 4)), size)
    num_entries = tf.minimum(
        number(_octets(exif, start, 2)), tf.maximum(size - start - 2, 0) // 12
    )
    # Without entries 12 zeros are read, which are no orientation.
    length = 12 * tf.maximum(num_entries, 1)
    entries = tf.reshape(_octets(exif, start + 2, length), (-1, 12))
    tags, types, counts, values = (
        number(entries[:, begin:end])
        for begin, end in ((0, 2), (2, 4), (4, 8), (8, 10))
    )
    is_orientation = is_tiff & (tags == 0x0112) & (types == 3) & (counts == 1)
    is_orientation &= (values >= 1) & (values <= 8)
    found = tf.boolean_mask(values, is_orientation)
    return tf.cast(tf.concat([found, [1]], axis=0)[0], tf.int32)


def resize_image(image: tf.Tensor, size: int, how: str) -> tf.Tensor:
    """Resizes an image to a square, with antialiasing.

    Args:
        image: `(height, width, 3)`, float32 from 0 to 255.
        size: Height and width of the result in pixels.
        how: `crop` keeps the central square, `pad` adds grey at the bottom or at the
            right, `squash` changes the aspect ratio.

    Returns:
        `(size, size, 3)`, float32.
    """
    if how == "pad":
        return fit_image(image, size, size)[0]
    if how == "crop":
        height, width = tf.unstack(tf.shape(image)[:2])
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
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
        BadInput: The file is missing, not an image, of a format that `decode_image`
            does not know, truncated or too large.
    """
    try:
        image_bytes = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path} {_describe(error)}") from error
    reason = why_unreadable(image_bytes)
    if reason:
        raise BadInput(f"{path} {reason}")
    return image_bytes


def upright_size(image_bytes: bytes) -> tuple[int, int]:
    """Returns the width and height of an encoded image as `decode_image` turns it."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        width, height = image.size
        is_jpeg = image.format in ("JPEG", "MPO")
    is_turned = is_jpeg and int(read_orientation(image_bytes)) >= 5
    return (height, width) if is_turned else (width, height)


def why_unreadable(image_bytes: bytes) -> str | None:
    """Returns why an encoded image cannot be used, and the remedy; None if it can."""
    try:
        with Image.open(io.BytesIO(image_bytes)) as image:
            if image.format not in FORMATS:
                return f"is a {image.format} image; convert it to JPEG or PNG"
            if not _is_decodable(image):
                return "is a BMP image with a palette; convert it to PNG"
            image.load()
        tf.io.decode_image(image_bytes, expand_animations=False)
    except Exception as error:  # Pillow's readers raise errors of many kinds.
        return _describe(error, image_bytes[:12])
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


def list_files(folder: Path) -> list[Path]:
    """Returns the files in a folder and in its subfolders, sorted.

    Hidden files and those of a file manager are left out.
    """
    paths = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and name not in SYSTEM_FILES
        ]
    return sorted(paths)


def make_decodable(
    paths: Sequence[Path],
) -> tuple[list[Path | None], list[tuple[Path, str]]]:
    """Reads image files and converts those that `decode_image` cannot decode.

    Whatever Pillow opens is converted, and a line says so. The copies are upright, of 8
    bits and on white: JPEG files of high quality if the format is one of photographs,
    and PNG files otherwise. They lie in a temporary folder until the process ends.

    Args:
        paths: The files.

    Returns:
        For each file itself or its copy, or None if it cannot be read; and a pair of
        each such file and the reason.
    """

    def prepare(path):
        try:
            with Image.open(path) as image:  # Reads the header: the file may be large.
                if not _is_decodable(image):
                    return _convert(image, path), None, image.format
            return path, why_unreadable(path.read_bytes()), None
        except Image.UnidentifiedImageError as error:
            with path.open("rb") as file:
                return path, _describe(error, file.read(12)), None
        except Exception as error:  # Pillow's readers raise errors of many kinds.
            return path, _describe(error), None

    with ThreadPoolExecutor() as pool:
        prepared = list(pool.map(prepare, paths))
    converted = Counter(kind for _, _, kind in prepared if kind)
    if converted:
        kinds = ", ".join(f"{number} {kind}" for kind, number in converted.items())
        print(f"converted images that TensorFlow does not decode: {kinds}")
    files = [None if reason else file for file, reason, _ in prepared]
    reasons = [
        (path, reason)
        for path, (_, reason, _) in zip(paths, prepared, strict=True)
        if reason
    ]
    return files, reasons


def _is_decodable(image):
    is_indexed_bitmap = image.format == "BMP" and image.mode in ("1", "P")
    return image.format in FORMATS and not is_indexed_bitmap


def _describe(error, first_bytes=b""):
    """Returns what is wrong with an image, given the error and its first 12 bytes."""
    if isinstance(error, Image.UnidentifiedImageError):
        if first_bytes[4:8] == b"ftyp" and first_bytes[8:12] in HEIC_BRANDS:
            return (
                "is a HEIC image; convert it to JPEG (for training, pip install "
                "'keras-apps[formats]' will do)"
            )
        return "is not an image; use JPEG or PNG files"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"has more than {limit} million pixels; make it smaller"
    if isinstance(error, UnusualPixels):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read: {error.strerror}"
    return "is damaged or truncated; replace it"


class UnusualPixels(ValueError):
    """The pixels of an image have no range from which 8 bits can be made."""


def _convert(image, path):
    """Converts an opened image for `decode_image`; returns the path of its copy."""
    status = path.stat()
    identity = f"{path.resolve()} {status.st_mtime_ns} {status.st_size}"
    digest = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()
    is_photograph = image.format in LOSSY_FORMATS
    copy = _temporary_folder() / f"{digest}.{'jpg' if is_photograph else 'png'}"
    if copy.exists():
        return copy
    if image.mode in ("F", "I", "LAB"):
        raise UnusualPixels(
            f"has pixels of the mode {image.mode}; convert it to 8 bits per channel"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits.
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    if is_photograph:
        image.save(copy, quality=95, subsampling=0)
    else:
        image.save(copy, compress_level=1)
    return copy


@functools.cache
def _temporary_folder():
    folder = tempfile.mkdtemp(prefix="keras_apps_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _jpeg(image_bytes):
    # TensorFlow's default is faster but differs by a grey level; this one decodes
    # exactly as Pillow does on the device.
    pixels = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    orientation = read_orientation(image_bytes)
    pixels = tf.cond(
        orientation == 1, lambda: pixels, lambda: _turn(pixels, orientation)
    )
    return tf.cast(tf.ensure_shape(pixels, (None, None, 3)), tf.float32)


def _turn(pixels, orientation):
    """Turns an image of an Exif orientation upright."""
    pixels = tf.transpose(pixels, tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2]))
    is_mirrored = tf.reduce_any(orientation == [[3, 4, 7, 8], [2, 3, 6, 7]], axis=1)
    return tf.reverse(pixels, tf.boolean_mask([0, 1], is_mirrored))


def _find_exif(jpeg):
    """Returns the Exif data of a JPEG file; an empty string if it has none."""
    size = tf.strings.length(jpeg)

    def begins(start, text):
        return tf.strings.substr(jpeg, tf.minimum(start, size), len(text)) == text

    def is_exif(start):
        return begins(start, b"\xff\xe1") & begins(start + 4, b"Exif\0\0")

    def is_searching(start):
        is_scan = begins(start, b"\xff\xda")
        return (start < size) & ~is_exif(start) & ~is_scan

    def skip(start):
        first, second, high, low = tf.unstack(_octets(jpeg, start, 4))
        is_marker = (first == 0xFF) & (second != 0xFF) & (second != 0)
        length = tf.where(is_marker, 2 + 256 * high + low, 1)  # Else padding.
        return (start + tf.cast(length, tf.int32),)

    (start,) = tf.while_loop(is_searching, skip, [2], maximum_iterations=MAX_SEGMENTS)
    high, low = tf.unstack(tf.cast(_octets(jpeg, start + 2, 2), tf.int32))
    length = tf.where(is_exif(start), tf.maximum(256 * high + low - 8, 0), 0)
    return tf.strings.substr(jpeg, tf.minimum(start + 10, size), length)


def _octets(text, start, length):
    """Returns some bytes of a string, int64 `(length,)`; zeros beyond its end."""
    start = tf.minimum(tf.cast(start, tf.int32), tf.strings.length(text))
    length = tf.cast(length, tf.int32)
    part = tf.strings.substr(text, start, length)
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=length), tf.int64)


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
