"""Classifies images on a device: python run.py photo.jpg

It needs numpy, pillow and ai-edge-litert (requirements.txt), but no TensorFlow.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

BUNDLE = Path(__file__).parent


def load_model(path=BUNDLE / "model.tflite"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file; `labels.txt` lies beside it.

    Returns:
        A function from a list of encoded images to `classes` and `scores`, arrays
        `(images, classes)`, the best first.
    """
    labels = (Path(path).parent / "labels.txt").read_text("utf-8").splitlines()
    labels = np.array([label.encode() for label in labels], object)
    interpreter = Interpreter(str(path), num_threads=2)
    runner = interpreter.get_signature_runner()
    size = runner.get_input_details()["images"]["shape"][1]

    def predict(encoded_images):
        scores = np.concatenate(
            [runner(images=prepare(each, size))["scores"] for each in encoded_images]
        )
        order = np.argsort(-scores, axis=1, kind="stable")
        return {
            "classes": labels[order],
            "scores": np.take_along_axis(scores, order, axis=1),
        }

    return predict


def prepare(image_bytes, size):
    """Decodes and resizes one image as the served model does.

    Args:
        image_bytes: An encoded image.
        size: Height and width of the result in pixels.

    Returns:
        float32 `(1, size, size, 3)`, RGB from 0 to 255.
    """
    with Image.open(io.BytesIO(image_bytes)) as image:
        if image.mode.startswith("I"):  # 16 bits; Pillow would clip them.
            image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        channels = image.convert("RGB").split()
    # Pillow rounds when it resizes 8-bit images, so each channel is resized as floats.
    channels = [
        channel.convert("F").resize((size, size), Image.Resampling.BILINEAR)
        for channel in channels
    ]
    return np.stack(channels, axis=-1)[None].astype("float32")


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
