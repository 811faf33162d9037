"""Faces as pixels: decoding, grids without titles, and animations."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from apps.common import runs
from apps.common.errors import BadInput

ANIMATIONS = (".gif", ".webp")
MILLISECONDS = 60  # Of a frame of an animation.


def decode(png_files):
    """Returns the pixels of PNG files, uint8 `(images, size, size, 3)`."""
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in png_files])


def enlarge(pixels, factor):
    """Returns an image with each pixel repeated, uint8 `(height, width, 3)`."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def tile(pixels, columns):
    """Returns images side by side, row by row.

    Args:
        pixels: uint8 `(images, height, width, 3)`.
        columns: Images in a row; the last row is filled with white.

    Returns:
        uint8 `(rows * height, columns * width, 3)`.
    """
    number, height, width, channels = pixels.shape
    rows = -(-number // columns)
    missing = np.full((rows * columns - number, height, width, channels), 255, "uint8")
    cells = np.concatenate([pixels, missing]).reshape(rows, columns, height, width, 3)
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def check_animation(path):
    """Checks the name of the file of an animation.

    Raises:
        BadInput: It has another ending.
    """
    if path.suffix.lower() not in ANIMATIONS:
        raise BadInput(f"--animation {path} must end in {' or '.join(ANIMATIONS)}")


def write_animation(frames, path):
    """Writes frames, uint8 `(frames, height, width, 3)`, as an endless animation."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, frames)
    with runs.replacing(path) as unfinished:
        first.save(
            unfinished,
            path.suffix[1:].upper(),
            save_all=True,
            append_images=others,
            duration=MILLISECONDS,
            loop=0,
        )
