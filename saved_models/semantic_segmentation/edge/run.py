"""Segments images on a device: python run.py photo.jpg

It needs numpy, pillow and ai-edge-litert (requirements.txt), but no TensorFlow.
"""

import argparse
import io
import struct
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageColor, ImageDraw

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


def load_model(path=BUNDLE / "model.tflite", signature="serving_default"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file, beside `labels.txt` and `crf.tflite`.
        signature: `serving_default`, or `with_crf` to refine the masks.

    Returns:
        A function from a list of encoded images to named arrays:

        - `mask_bytes`, `(images,)`: the masks, as PNG files of class numbers.
        - `classes`, `(images, classes)`: the name of each class, or an empty string if
          the mask does not contain it.
        - `pixel_fractions`, `(images, classes)`: the fraction of pixels of each class.
    """
    folder = Path(path).parent
    names, _ = read_labels(folder)
    network = load_runner(path)
    crf = load_runner(folder / "crf.tflite") if signature == "with_crf" else None
    _, height, width, _ = network.get_input_details()["images"]["shape"]

    def segment(image_bytes):
        fitted, (rows, columns), size = prepare(image_bytes, height, width)
        logits = network(images=fitted)["logits"]
        if crf:
            # Pad with the border pixels: grey would change the pixels near it.
            inner = np.s_[:, :rows, :columns]
            padding = ((0, 0), (0, height - rows), (0, width - columns), (0, 0))
            fitted, logits = (
                np.pad(maps[inner], padding, "edge") for maps in (fitted, logits)
            )
            logits = crf(images=fitted, logits=logits)["refined"]
        mask = best_class(logits[0, :rows, :columns], size)
        counts = np.bincount(mask.ravel(), minlength=len(names))
        file = io.BytesIO()
        Image.fromarray(mask).save(file, "PNG")
        return file.getvalue(), np.where(counts > 0, names, b""), counts / mask.size

    def predict(encoded_images):
        masks, classes, fractions = zip(*map(segment, encoded_images), strict=True)
        return {
            "mask_bytes": np.array(masks, object),
            "classes": np.array(classes, object),
            "pixel_fractions": np.array(fractions, "float32"),
        }

    return predict


def load_runner(path):
    """Returns a `.tflite` model as a function from named arrays to named arrays."""
    if not Path(path).is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return Interpreter(str(path), num_threads=2).get_signature_runner()


def read_labels(folder):
    """Returns the names in `labels.txt`, as bytes, and the colours."""
    lines = (folder / "labels.txt").read_text("utf-8").splitlines()
    names, colors = zip(*(line.rsplit(" ", 1) for line in lines), strict=True)
    names = np.array([name.encode() for name in names], object)
    return names, [ImageColor.getrgb(color) for color in colors]


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


def prepare(image_bytes, height, width):
    """Decodes, resizes and pads an image exactly as the served model does.

    Args:
        image_bytes: An encoded image.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        The padded image, float32 `(1, height, width, 3)`, RGB from 0 to 255; the size
        of the image without the padding; and the size of the upright original.
    """
    image = np.asarray(decode(image_bytes), "float32")
    rows, columns = image.shape[:2]
    if rows * width > columns * height:
        inner = height, max(1, (2 * columns * height + rows) // (2 * rows))
    else:
        inner = max(1, (2 * rows * width + columns) // (2 * columns)), width
    fitted = np.full((1, height, width, 3), 127.5, "float32")
    fitted[0, : inner[0], : inner[1]] = resize(image, inner)
    return fitted, inner, (rows, columns)


def resize(maps, size):
    """Resizes float32 `(height, width, channels)` to `(*size, channels)`."""
    if maps.shape[:2] == tuple(size):
        return maps
    channels = [
        Image.fromarray(maps[..., i]).resize(size[::-1], Image.Resampling.BILINEAR)
        for i in range(maps.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def best_class(logits, size):
    """Resizes logits to the size of the image and returns the best class per pixel."""
    best, mask = None, np.zeros(size, "uint8")
    for number in range(logits.shape[-1]):
        channel = resize(logits[..., number : number + 1], size)[..., 0]
        if best is None:
            best = channel
        mask[channel > best] = number
        best = np.maximum(best, channel)
    return mask


def draw(image_bytes, mask_bytes, legend, colors, path):
    """Draws a mask over its image, with a legend below, to a PNG file.

    Args:
        image_bytes: The encoded image.
        mask_bytes: The encoded mask.
        legend: A text for each class in the mask, by number.
        colors: The colour of each class.
        path: The file to write.
    """
    image = decode(image_bytes)
    with Image.open(io.BytesIO(mask_bytes)) as mask:
        painted = np.array(colors, "uint8")[np.asarray(mask)]
    overlay = Image.blend(image, Image.fromarray(painted), 0.6)
    figure = Image.new("RGB", (image.width, image.height + 16 * len(legend)), "white")
    figure.paste(overlay)
    pen = ImageDraw.Draw(figure)
    for line, (number, text) in enumerate(legend.items()):
        y = image.height + 16 * line
        pen.rectangle((4, y + 3, 14, y + 13), fill=colors[number])
        pen.text((20, y + 2), text, fill="black")
    figure.save(path)


def main():
    """Prints the classes in each image and draws them over it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="JPEG or PNG files")
    parser.add_argument(
        "--model", type=Path, default=BUNDLE / "model.tflite", help="a .tflite file"
    )
    parser.add_argument("--crf", action="store_true", help="refine masks by the CRF")
    parser.add_argument(
        "--to", type=Path, default=Path("."), help="folder for the overlays"
    )
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    signature = "with_crf" if arguments.crf else "serving_default"
    try:
        predict = load_model(arguments.model, signature)
        _, colors = read_labels(arguments.model.parent)
        arguments.to.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is missing; copy the whole bundle again")
    except (ValueError, OSError) as error:
        parser.error(f"{arguments.model} or {arguments.to} cannot be used: {error}")
    for path in arguments.images:
        try:
            image_bytes = path.read_bytes()
            answers = predict([image_bytes])
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            print(f"error: {path} cannot be read as an image: {error}", file=sys.stderr)
            sys.exit(2)
        classes, fractions = answers["classes"][0], answers["pixel_fractions"][0]
        names = {i: name.decode() for i, name in enumerate(classes) if name}
        legend = {i: f"{name} {fractions[i]:.1%}" for i, name in names.items()}
        overlay = arguments.to / f"{path.stem}_overlay.png"
        draw(image_bytes, answers["mask_bytes"][0], legend, colors, overlay)
        for i in sorted(names, key=lambda i: -fractions[i]):
            print(f"{path}\t{names[i]}\t{fractions[i]:.4f}")
        print(f"{path}\toverlay\t{overlay}")


if __name__ == "__main__":
    main()
