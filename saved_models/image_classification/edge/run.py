"""Classifies images on a device: python run.py photo.jpg

It needs numpy, pillow and ai-edge-litert (requirements.txt), but no TensorFlow.
"""

import argparse
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

BUNDLE = Path(__file__).parent
FORMATS = {"JPEG", "MPO", "PNG", "GIF", "BMP"}  # Those that the served model decodes.
# What turns a photograph upright, by its orientation in Exif data.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_model(path=BUNDLE / "model.tflite"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file; `labels.txt` and `settings.json` lie beside it.

    Returns:
        A function from a list of encoded images to `classes` and `scores`, arrays
        `(images, classes)`, the best first.
    """
    folder = Path(path).parent
    labels = (folder / "labels.txt").read_text("utf-8").splitlines()
    labels = np.array([label.encode() for label in labels], object)
    how = json.loads((folder / "settings.json").read_text("utf-8"))["resize"]
    interpreter = Interpreter(str(path), num_threads=2)
    runner = interpreter.get_signature_runner()
    size = runner.get_input_details()["images"]["shape"][1]

    def predict(encoded_images):
        scores = np.concatenate(
            [
                runner(images=prepare(each, size, how))["scores"]
                for each in encoded_images
            ]
        )
        order = np.argsort(-scores, axis=1, kind="stable")
        return {
            "classes": labels[order],
            "scores": np.take_along_axis(scores, order, axis=1),
        }

    return predict


def prepare(image_bytes, size, how):
    """Decodes and resizes one image as the served model does.

    Args:
        image_bytes: An encoded image.
        size: Height and width of the result in pixels.
        how: `crop` keeps the central square, `pad` adds grey at the bottom or at the
            right, `squash` changes the aspect ratio.

    Returns:
        float32 `(1, size, size, 3)`, RGB from 0 to 255.
    """
    image = decode(image_bytes)
    columns, rows = image.size
    if how == "crop":
        side = min(rows, columns)
        left, top = (columns - side) // 2, (rows - side) // 2
        image = image.crop((left, top, left + side, top + side))
    inner_rows = inner_columns = size
    if how == "pad" and rows < columns:
        inner_rows = max(1, (2 * rows * size + columns) // (2 * columns))
    elif how == "pad":
        inner_columns = max(1, (2 * columns * size + rows) // (2 * rows))
    # Pillow rounds when it resizes 8-bit images, so each channel is resized as floats.
    channels = [
        channel.convert("F").resize(
            (inner_columns, inner_rows), Image.Resampling.BILINEAR
        )
        for channel in image.split()
    ]
    padded = np.full((1, size, size, 3), 127.5, "float32")
    padded[0, :inner_rows, :inner_columns] = np.stack(channels, axis=-1)
    return padded


def decode(image_bytes):
    """Decodes an image as the served model does: upright, to 8-bit RGB on white."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        if image.format not in FORMATS:
            raise ValueError(f"it is a {image.format} image; convert it to JPEG or PNG")
        if image.format == "BMP" and image.mode in ("1", "P"):
            raise ValueError("it is a BMP image with a palette; convert it to PNG")
        if image.format in ("JPEG", "MPO"):
            turn = TURNS.get(read_orientation(image.info.get("exif", b"")))
            image = image if turn is None else image.transpose(turn)
        if image.mode.startswith("I"):  # 16 bits; Pillow would clip them.
            image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def read_orientation(exif):
    """Returns the orientation in Exif data; 1, upright, if it is damaged or missing."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for i in range(num_entries):
            entry = struct.unpack_from(f"{order}HHIHxx", tiff, start + 2 + 12 * i)
            if entry[:3] == (0x0112, 3, 1) and 1 <= entry[3] <= 8:
                return entry[3]
    except (KeyError, struct.error):
        pass
    return 1


def main():
    """Prints the best classes of each image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="JPEG or PNG files")
    parser.add_argument(
        "--model", type=Path, default=BUNDLE / "model.tflite", help="a .tflite file"
    )
    parser.add_argument("--top", type=int, default=3, help="classes to print")
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    predict = load_model(arguments.model)
    for path in arguments.images:
        try:
            answer = predict([path.read_bytes()])
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            print(f"error: {path} cannot be read as an image: {error}", file=sys.stderr)
            sys.exit(2)
        best = zip(answer["classes"][0], answer["scores"][0], strict=True)
        for name, score in list(best)[: arguments.top]:
            print(f"{path}\t{name.decode()}\t{score:.4f}")


if __name__ == "__main__":
    main()
