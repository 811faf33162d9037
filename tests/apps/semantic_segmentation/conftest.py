import numpy as np
import pytest
from PIL import Image

from apps.semantic_segmentation.config import Config
from apps.semantic_segmentation.export import export
from apps.semantic_segmentation.train import train

CLASSES = ("ground", "disc #ff8000", "box")


def draw(seed):
    """A disc and a box on noisy ground, and their mask, with some void pixels."""
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


def write(folder, numbers, images="images", masks="masks"):
    """Writes some of the pictures and their masks, every other one as a JPEG."""
    (folder / images).mkdir(parents=True)
    (folder / masks).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for i in numbers:
        image, mask = draw(i)
        name = f"{'odd' if i % 2 else 'even'}_{i:02d}"
        image.save(folder / images / f"{name}.{'jpg' if i % 2 else 'png'}", quality=95)
        mask.save(folder / masks / f"{name}.png")


@pytest.fixture(scope="session")
def own_data(tmp_path_factory):
    """A folder as people have it: 20 pictures of different sizes with their masks."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write(folder, range(20))
    return folder


def small(data, **changes):
    """Settings of a short training."""
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


@pytest.fixture(scope="session")
def run(own_data, tmp_path_factory):
    """A training on the made-up pictures."""
    directory = tmp_path_factory.mktemp("runs") / "shapes"
    train(small(own_data), directory)
    return directory


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The directory of the exported model."""
    directory = tmp_path_factory.mktemp("saved_models") / "semantic_segmentation"
    export(run, directory)
    return directory
