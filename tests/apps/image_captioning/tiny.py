"""Small images of one colour, their captions, and settings of a tiny model."""

import numpy as np
from PIL import Image, ImageColor

from apps.common.images import encode_png
from apps.common.tokenizer import train_tokenizer
from apps.image_captioning.config import Config
from apps.image_captioning.data import Examples

COLORS = ["red", "green", "blue", "yellow", "black", "white"]
# COCO's JSON of another task.
BOXES = {
    "images": [{"id": 1, "file_name": "1.png"}],
    "categories": [{"id": 1, "name": "wall"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}],
}


def write_images(folder, *names):
    """Writes an image of 8 × 6 pixels under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), COLORS[len(name) % 6]).save(folder / name)


def write_lines(path, *lines):
    """Writes a file, in a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def make_examples(number):
    """Returns images with one to three captions, which tell their colour."""
    colors = [COLORS[i % 6] for i in range(number)]
    sentences = ("a {} wall", "one {} wall without a door", "{}")
    return Examples(
        [f"{i}.png" for i in range(number)],
        [
            encode_png(np.full((36, 40, 3), ImageColor.getrgb(color), "uint8"))
            for color in colors
        ],
        [
            tuple(sentence.format(color) for sentence in sentences[: i % 3 + 1])
            for i, color in enumerate(colors)
        ],
    )


def make_tokenizer(examples):
    """Returns a tokenizer of the words in captions."""
    return train_tokenizer(
        [each for row in examples.captions for each in row], 50, "word"
    )


def small(data="", **changes):
    """Returns the settings of a tiny model that is trained from random weights."""
    settings = {
        "image_size": 32,
        "vocabulary_size": 50,
        "backbone": "small_resnet",
        "weights": None,
        "feature_size": 8,
        "attention_units": 6,
        "units": 10,
        "embedding_size": 7,
        "dropout": 0.0,
        "epochs": 1,
        "self_critical_epochs": 0,
        "min_steps": 0,
        "batch_size": 8,
        "beam_size": 3,
        "max_tokens": 10,
    }
    return Config(data=str(data), **{**settings, **changes})
