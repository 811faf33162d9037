"""Image files for tests: as cameras write them, and as Pillow writes them."""

import io
import struct

import numpy as np
from PIL import Image, ImageOps

RNG = np.random.default_rng(0)
RGB = RNG.normal((120, 90, 60), 40, (45, 61, 3)).clip(0, 255).astype("uint8")

ORIENTATION = 0x0112
SHORT, LONG = 3, 4


def encode(image, format, **options):
    """Returns the file of an image."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif(*entries, order="<", after=b""):
    """Returns Exif data with one directory of tags, types, counts and values."""
    byte_order = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join(
        (
            *(b"Exif\0\0", byte_order, struct.pack(f"{order}IH", 8, len(entries))),
            *(struct.pack(f"{order}HHIHxx", *entry) for entry in entries),
            *(struct.pack(f"{order}I", 0), after),
        )
    )


def photograph(orientation, format="JPEG", pixels=RGB):
    """Returns an encoded image with the orientation that a camera would record."""
    data = exif((ORIENTATION, SHORT, 1, orientation))
    return encode(Image.fromarray(pixels), format, exif=data)


def turn(pixels, orientation):
    """Turns an image upright, by Pillow."""
    with Image.open(io.BytesIO(photograph(orientation, "PNG", pixels))) as image:
        return np.asarray(ImageOps.exif_transpose(image))
