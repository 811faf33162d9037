"""A small data set of discs and boxes, and models for it that need no training."""

import keras
import numpy as np
from PIL import Image

from apps.common import runs
from apps.semantic_segmentation.config import Config
from apps.semantic_segmentation.model import build_model

CLASSES = ("ground", "disc #ff8000", "box")


def draw(seed):
    """Returns a disc and a box on noisy ground, and the mask, partly unlabelled."""
    random = np.random.default_rng(seed)
    height, width = random.integers((36, 52), (45, 61))
    mask = np.zeros((height, width), "uint8")
    y, x = np.indices(mask.shape)
    top, left = random.integers(2, 10, size=2)
    mask[top : top + 16, left : left + 14] = 2
    mask[(y - height / 2) ** 2 + (x - 0.7 * width) ** 2 < 100] = 1
    colors = np.array([(110, 120, 110), (230, 130, 30), (40, 60, 200)])
    image = colors[mask] + random.normal(0, 25, (height, width, 3))
    mask[:, -2:] = 255
    return Image.fromarray(image.clip(0, 255).astype("uint8")), Image.fromarray(mask)


def write(folder, seeds, images="images", masks="masks"):
    """Writes images and their masks; every other image is a JPEG file."""
    (folder / images).mkdir(parents=True)
    (folder / masks).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for seed in seeds:
        image, mask = draw(seed)
        name = f"{'odd' if seed % 2 else 'even'}_{seed:02d}"
        suffix = "jpg" if seed % 2 else "png"
        image.save(folder / images / f"{name}.{suffix}", quality=95)
        mask.save(folder / masks / f"{name}.png")


def small(data, **changes):
    """Returns the configuration of a short training."""
    settings = {
        "image_size": (64, 64),
        "crop": (64, 64),
        "scale": (0.9, 1.1),
        "color": 0.0,
        "backbone": "small_resnet",
        "weights": None,
        "epochs": 10,
        "batch_size": 4,
        "learning_rate": 3e-3,
    }
    return Config(data=str(data), **{**settings, **changes})


def random_network():
    """Returns a network whose random scores differ from pixel to pixel."""
    keras.utils.set_random_seed(0)
    model = build_model(
        num_classes=3,
        architecture="fcn",
        backbone="small_resnet",
        weights=None,
        dropout=0.0,
    )
    random = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3))
    scores = model(random.astype("float32")).numpy()
    # Without a class that is best everywhere.
    bias = model.get_layer("scores").bias
    bias.assign(bias - scores.mean(axis=(0, 1, 2)))
    return model


def write_run(run, config, network):
    """Writes the run of a training that ended with this network."""
    runs.start(config, run, {})
    runs.write_json(run / "classes.json", CLASSES)
    network.save(run / "model.keras")
