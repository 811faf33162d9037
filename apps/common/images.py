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

from apps.common import datasets, limits
from apps.common.errors import BadInput
from apps.common.image_headers import (
    DAMAGED,
    MAX_JPEG_WORK,
    check_jpeg,
    check_other,
    jpeg_work,
    read_orientation,
)

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


def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one encoded image, inside a graph.

    A JPEG file is turned upright, as its camera recorded (Exif). 16-bit and CMYK images
    become 8-bit RGB; transparent pixels are put on white.

    Args:
        image_bytes: Scalar string: a JPEG, PNG or BMP file, or the first frame of a GIF
            file.

    Returns:
        `(height, width, 3)`, uint8.
    """
    pixels = tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: _upright(image_bytes, _decode_jpeg(image_bytes)),
        lambda: _on_white(_decode_other(image_bytes)),
    )
    return tf.ensure_shape(pixels, (None, None, 3))


def decode_each(
    image_bytes: tf.Tensor,
    prepare: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
    signature: Sequence[tf.TensorSpec],
) -> tuple[Sequence[tf.Tensor], tf.Tensor]:
    """Decodes and prepares the images of a request, inside a graph.

    A damaged image does not stop the others. The size of an image is read from its
    header first, so a small file cannot fill the memory of a server.

    Args:
        image_bytes: The files, strings `(n,)`; files that are too large are refused.
        prepare: Function of an image from `decode_image`; returns several tensors.
        signature: Their shapes and types.

    Returns:
        The tensors of all images, stacked; and what is wrong with each image, strings
        `(n,)`, empty if nothing.
    """
    grey = tf.fill([1, 1, 3], tf.constant(128, tf.uint8))

    # What must not be decoded is replaced by an empty file, which fails.
    def checked_jpeg(jpeg):
        return _decode_jpeg(tf.where(jpeg_work(jpeg) <= MAX_JPEG_WORK, jpeg, ""))

    def checked_other(encoded):
        encoded, error = check_other(encoded)
        return _decode_other(tf.where(error == "", encoded, ""))

    def load_jpeg(jpeg):
        pixels, is_decoded = limits.attempt(checked_jpeg, jpeg, grey)
        return _upright(jpeg, pixels), is_decoded

    def load_other(encoded):
        pixels, is_decoded = limits.attempt(checked_other, encoded, grey)
        return _on_white(pixels), is_decoded

    def why_refused(encoded):
        error = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: limits.attempt(check_jpeg, encoded, "")[0],
            lambda: check_other(encoded)[1],
        )
        return tf.where(error == "", DAMAGED, error)

    def load(encoded):
        pixels, is_decoded = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: load_jpeg(encoded),
            lambda: load_other(encoded),
        )
        return (*prepare(tf.ensure_shape(pixels, (None, None, 3))), is_decoded)

    *prepared, is_decoded = tf.map_fn(
        load,
        image_bytes,
        fn_output_signature=(*signature, tf.TensorSpec([], tf.bool)),
        parallel_iterations=2,  # Large images take much memory.
    )
    errors = tf.cond(
        tf.reduce_all(is_decoded),
        lambda: tf.fill(tf.shape(image_bytes), ""),
        lambda: tf.map_fn(why_refused, image_bytes),
    )
    return prepared, tf.where(is_decoded, "", errors)


def check_pixels(
    images: tf.Tensor, size: Sequence[int], max_inputs: int = limits.MAX_INPUTS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Checks prepared images, inside a graph.

    Args:
        images: The input `images` of a signature, of any shape.
        size: The height and width that they must have.
        max_inputs: Number of images that a request may have.

    Returns:
        The images, float32 `(n, height, width, 3)`, with zeros instead of bad ones; and
        what is wrong with each image, strings `(n,)`, empty if nothing.

    Raises:
        tf.errors.InvalidArgumentError: The shape is another one; when the graph runs.
    """
    shape = [*size, 3]
    images = limits.check_shape(images, "images", [None, *shape], [max_inputs, *shape])
    # Written so that NaN fails too.
    is_good = tf.reduce_all((images >= 0) & (images <= 255), axis=[1, 2, 3])
    errors = limits.first_error((~is_good, "the pixels must be from 0 to 255"))
    return tf.where(is_good[:, None, None, None], images, 0), errors


def resize_image(image: tf.Tensor, size: int, how: str) -> tf.Tensor:
    """Resizes an image to a square, with antialiasing.

    Args:
        image: `(height, width, 3)`, numbers from 0 to 255.
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


def place_map(values: tf.Tensor, height: int, width: int, how: str) -> np.ndarray:
    """Returns a map of a square from `resize_image` as a map of the whole image.

    Args:
        values: The map, float32 `(rows, columns, 1)`.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        how: How the image became square, as for `resize_image`.

    Returns:
        float32 `(height, width)`; 0 where the square does not reach.
    """
    if how == "crop":
        side = min(height, width)
        values = tf.image.resize(values, (side, side))
        top, left = (height - side) // 2, (width - side) // 2
        values = tf.image.pad_to_bounding_box(values, top, left, height, width)
    elif how == "pad":  # Padding is at the bottom or at the right.
        side = max(height, width)
        values = tf.image.resize(values, (side, side))[:height, :width]
    else:
        values = tf.image.resize(values, (height, width))
    return values[..., 0].numpy()


def fit_image(
    image: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """Resizes an image to fit, and pads it with grey at the bottom or at the right.

    The aspect ratio is kept.

    Args:
        image: `(rows, columns, 3)`, numbers from 0 to 255, of any size.
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


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes an image or a mask, uint8, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


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


def name_outputs(flag: str, folder: Path, names: Sequence[str]) -> list[Path]:
    """Returns the paths of the PNG files that are made of images.

    Args:
        flag: The flag that names the folder, for the message.
        folder: The folder for the files.
        names: The paths of the images.

    Raises:
        BadInput: Two files have the same path, or one has the path of an image.
    """
    paths = [folder / f"{Path(name).stem}.png" for name in names]
    image_paths = {Path(name).resolve() for name in names}
    if len(set(paths)) < len(paths) or image_paths & {path.resolve() for path in paths}:
        raise BadInput(
            f"{flag} {folder}: a file would replace an image, or another file of the "
            "same name; pass another folder, or fewer images"
        )
    return paths


def find_images(inputs: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """Returns the names and the files of images; folders are expanded.

    Files in folders that are no images are reported and skipped.

    Args:
        inputs: Paths of files and folders.

    Raises:
        BadInput: A folder has no image.
    """
    names, files = [], []
    for path in inputs:
        if not path.is_dir():
            names.append(str(path))
            files.append(path)
            continue
        found = list_files(path)
        readable, unreadable = make_decodable(found)
        datasets.print_skipped((str(name), reason) for name, reason in unreadable)
        usable = [
            (str(name), file)
            for name, file in zip(found, readable, strict=True)
            if file
        ]
        if not usable:
            raise BadInput(f"{path} has no image that can be read; pass another folder")
        names += [name for name, _ in usable]
        files += [file for _, file in usable]
    return names, files


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


def _decode_jpeg(image_bytes):
    # TensorFlow's default is faster but differs by a grey level; this one decodes
    # exactly as Pillow does on the device.
    return tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_other(image_bytes):
    pixels = tf.io.decode_image(image_bytes, expand_animations=False)
    return tf.ensure_shape(pixels, (None, None, None))


def _on_white(pixels):
    """Returns pixels of one to four channels as RGB, uint8, on white."""
    height, width, channels = tf.unstack(tf.shape(pixels))

    def put_on_white():
        # Rounds as Pillow does on the device; 16 bits hold the products.
        opacity = tf.cast(pixels[..., -1:], tf.uint16)
        colors = tf.cast(pixels[..., :-1], tf.uint16)
        mixed = colors * opacity + 255 * (255 - opacity)
        return tf.cast((mixed + 127) // 255, tf.uint8)

    pixels = tf.cond(channels % 2 == 0, put_on_white, lambda: pixels)
    return tf.broadcast_to(pixels, [height, width, 3])


def _upright(jpeg, pixels):
    """Returns the pixels of a JPEG file, turned as its camera recorded."""
    orientation = read_orientation(jpeg)
    return tf.cond(orientation == 1, lambda: pixels, lambda: _turn(pixels, orientation))


def _turn(pixels, orientation):
    """Turns an image of an Exif orientation upright."""
    pixels = tf.transpose(pixels, tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2]))
    is_mirrored = tf.reduce_any(orientation == [[3, 4, 7, 8], [2, 3, 6, 7]], axis=1)
    return tf.reverse(pixels, tf.boolean_mask([0, 1], is_mirrored))
