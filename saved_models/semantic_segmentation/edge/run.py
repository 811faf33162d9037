"""Segments images on a device: python run.py photo.jpg

Needs numpy, pillow and ai-edge-litert, as requirements.txt says; no TensorFlow.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageColor, ImageDraw

BUNDLE = Path(__file__).parent


def load_model(path=BUNDLE / "model.tflite", signature="serving_default"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file; `labels.txt` and `crf.tflite` lie beside it.
        signature: `serving_default`, or `with_crf` to refine the masks.

    Returns:
        A function from a list of encoded images to `mask_bytes`, `(images,)`, PNG files
        of class numbers; `classes` and `shares`, both `(images, classes)`: at the place
        of each number, the name of the class if the mask contains it, otherwise
        nothing, and its share of the pixels.
    """
    names, _ = read_labels(Path(path).parent)
    network = load_runner(path)
    crf = None
    if signature == "with_crf":
        crf = load_runner(Path(path).parent / "crf.tflite")
    _, height, width, _ = network.get_input_details()["images"]["shape"]

    def segment(image_bytes):
        fitted, (rows, columns), size = prepare(image_bytes, height, width)
        logits = network(images=fitted)["logits"]
        if crf:
            # The border goes on, instead of padding that would pull at it.
            inner = np.s_[:, :rows, :columns]
            around = ((0, 0), (0, height - rows), (0, width - columns), (0, 0))
            fitted, logits = (
                np.pad(maps[inner], around, "edge") for maps in (fitted, logits)
            )
            logits = crf(images=fitted, logits=logits)["refined"]
        mask = best_class(logits[0, :rows, :columns], size)
        counts = np.bincount(mask.ravel(), minlength=len(names))
        file = io.BytesIO()
        Image.fromarray(mask).save(file, "PNG")
        return {
            "mask_bytes": file.getvalue(),
            "classes": np.where(counts > 0, names, b""),
            "shares": counts / mask.size,
        }

    def predict(encoded_images):
        answers = [segment(each) for each in encoded_images]
        joined = {name: [each[name] for each in answers] for name in answers[0]}
        return {
            "mask_bytes": np.array(joined["mask_bytes"], object),
            "classes": np.array(joined["classes"], object),
            "shares": np.array(joined["shares"], "float32"),
        }

    return predict


def load_runner(path):
    """Returns the function of a `.tflite` file from named arrays to named arrays."""
    if not Path(path).is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return Interpreter(str(path), num_threads=2).get_signature_runner()


def read_labels(folder):
    """Returns the names, as bytes, and the colours of `labels.txt`."""
    lines = (folder / "labels.txt").read_text("utf-8").splitlines()
    names, colors = zip(*(line.rsplit(" ", 1) for line in lines), strict=True)
    names = np.array([name.encode() for name in names], object)
    return names, [ImageColor.getrgb(color) for color in colors]


def decode(image_bytes):
    """Decodes an image as the served model does: eight-bit RGB, laid on white."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        if image.mode.startswith("I"):  # 16 bits; Pillow would clip them.
            image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def prepare(image_bytes, height, width):
    """Decodes and fits one image exactly as the served model does.

    Args:
        image_bytes: An encoded image.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        float32 `(1, height, width, 3)`, RGB from 0 to 255, grey where it is padded; the
        height and width that the image takes up in it; and those of the image itself.
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
    """Enlarges scores, class by class, and returns the best one of every pixel."""
    best, mask = None, np.zeros(size, "uint8")
    for number in range(logits.shape[-1]):
        channel = resize(logits[..., number : number + 1], size)[..., 0]
        if best is None:
            best = channel
        mask[channel > best] = number
        best = np.maximum(best, channel)
    return mask


def draw(image_bytes, answer, colors, path):
    """Draws one mask over its image, and the names of its classes, to a PNG file."""
    image = decode(image_bytes)
    with Image.open(io.BytesIO(answer["mask_bytes"])) as mask:
        painted = np.array(colors, "uint8")[np.asarray(mask)]
    mixed = Image.blend(image, Image.fromarray(painted), 0.6)
    names = [(i, name.decode()) for i, name in enumerate(answer["classes"]) if name]
    picture = Image.new("RGB", (mixed.width, mixed.height + 16 * len(names)), "white")
    picture.paste(mixed)
    pen = ImageDraw.Draw(picture)
    for line, (i, name) in enumerate(names):
        y = mixed.height + 16 * line
        pen.rectangle((4, y + 3, 14, y + 13), fill=colors[i])
        pen.text((20, y + 2), f"{name} {answer['shares'][i]:.1%}", fill="black")
    picture.save(path)


def main():
    """Prints what each image shows, and draws it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="JPEG or PNG files")
    parser.add_argument("--model", type=Path, default=BUNDLE / "model.tflite")
    parser.add_argument("--crf", action="store_true", help="refine the masks")
    parser.add_argument(
        "--to", type=Path, default=Path("."), help="folder of the overlays"
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
        answer = {name: value[0] for name, value in answers.items()}
        overlay = arguments.to / f"{path.stem}_overlay.png"
        draw(image_bytes, answer, colors, overlay)
        for i in np.argsort(-answer["shares"], kind="stable"):
            if answer["classes"][i]:
                name = answer["classes"][i].decode()
                print(f"{path}\t{name}\t{answer['shares'][i]:.4f}")
        print(f"{path}\toverlay\t{overlay}")


if __name__ == "__main__":
    main()
