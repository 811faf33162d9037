"""A small data set: a coloured shape on plain ground, and sentences about it."""

import itertools

import numpy as np
from PIL import Image

COLORS = {"red": (220, 40, 40), "green": (30, 170, 60), "blue": (40, 60, 220)}
SHAPES = ("disc", "bar", "pole")
KINDS = list(itertools.product(COLORS, SHAPES))
# People write the same in several ways.
SENTENCES = ("There is a {} {}.", "A {} {} on grey ground", "One {} {}, nothing else")


def draw(seed):
    """Returns an image of a shape, and its colour and shape."""
    random = np.random.default_rng(seed)
    color, shape = KINDS[seed % len(KINDS)]
    height, width = random.integers(36, 49, size=2)
    pixels = np.full((height, width, 3), random.uniform(200, 250))
    radius = random.uniform(9, 14)
    center = random.uniform(radius, (height - radius, width - radius))
    y, x = (np.indices((height, width)) + 0.5 - center[:, None, None]) / radius
    inside = {
        "disc": y**2 + x**2 < 1,
        "bar": abs(y) < 0.25,
        "pole": abs(x) < 0.25,
    }[shape] & (np.maximum(abs(y), abs(x)) < 1)
    pixels[inside] = COLORS[color]
    pixels += random.normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype("uint8")), color, shape


def captions(seed):
    """Returns what people write about an image, one to three sentences."""
    color, shape = KINDS[seed % len(KINDS)]
    return [each.format(color, shape) for each in SENTENCES[: seed % 3 + 1]]


# A training of seconds that learns most of the shapes.
SMALL = {
    "validation_fraction": 0.1,
    "image_size": 32,
    "crop_area": 1.0,
    "vocabulary_size": 40,
    "max_tokens": 10,
    "backbone": "small_resnet",
    "backbone_output": "block_3",
    "weights": None,
    "feature_size": 32,
    "attention_units": 32,
    "units": 32,
    "embedding_size": 16,
    "dropout": 0.0,
    "epochs": 12,
    "patience": None,
    "self_critical_epochs": 0,
    "min_steps": 0,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "label_smoothing": 0.0,
    "beam_size": 3,
}


def write(folder, seeds):
    """Writes images, and `captions.tsv` with one to three captions of each.

    The folder may have others already. Every other image is a JPEG file.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = folder / "captions.tsv"
    rows = [] if table.exists() else ["image\tcaption"]
    for seed in seeds:
        image, *_ = draw(seed)
        name = f"{seed:03d}.{'jpg' if seed % 2 else 'png'}"
        image.save(folder / "images" / name, quality=95)
        rows += [f"{name}\t{caption}" for caption in captions(seed)]
    with table.open("a", encoding="utf-8") as file:
        file.writelines(f"{row}\n" for row in rows)
    return folder
