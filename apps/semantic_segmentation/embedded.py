"""The built-in data set: handwritten digits on photographs, with exact masks."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

CLASSES = ("background #303030", *(f"digit {i}" for i in range(10)))
SCENE_PIXELS = 64  # Height and width of a scene.


def scenes(num_scenes=640, seed=0):
    """Draws scikit-learn's handwritten digits on parts of its photographs.

    The training scenes and the test scenes have no digit and no part of a photograph in
    common.

    Args:
        num_scenes: Number of scenes; 80 % are for training and 20 % for testing.
        seed: Seed of the drawing.

    Returns:
        For `train` and `test` a list of scenes with their masks: pairs of PNG files. A
        mask holds the position of each pixel's class in `CLASSES`.
    """
    random = np.random.default_rng(seed)
    drawn = {}
    for split, fraction in (("train", 0.8), ("test", 0.2)):
        digits, labels, backgrounds = materials(split)
        drawn[split] = [
            draw_scene(random, digits, labels, backgrounds)
            for _ in range(round(fraction * num_scenes))
        ]
    return drawn


def materials(split):
    """Returns the digits and the photographs that make the scenes of a split.

    Args:
        split: `train` or `test`.

    Returns:
        Digits, float `(digits, 8, 8)`; their labels, int `(digits,)`; and a list of
        photographs, uint8 `(height, width, 3)`.
    """
    digits = load_digits()
    photographs = load_sample_images().images
    is_test = np.arange(len(digits.images)) % 5 == 0
    if split == "test":
        chosen, columns = is_test, np.s_[480:]
    else:
        chosen, columns = ~is_test, np.s_[:480]
    backgrounds = [photograph[:, columns] for photograph in photographs]
    return digits.images[chosen], digits.target[chosen], backgrounds


def draw_scene(random, digits, labels, backgrounds):
    """Draws one scene: two to four bright digits on a darkened part of a photograph.

    Each digit lies in a quarter of its own.

    Args:
        random: A NumPy random generator.
        digits: From `materials`.
        labels: From `materials`.
        backgrounds: From `materials`.

    Returns:
        The scene and its mask, both PNG files.
    """
    background = backgrounds[random.integers(len(backgrounds))]
    top = random.integers(background.shape[0] - SCENE_PIXELS)
    left = random.integers(background.shape[1] - SCENE_PIXELS)
    scene = background[top : top + SCENE_PIXELS, left : left + SCENE_PIXELS] * 0.6
    mask = np.zeros((SCENE_PIXELS, SCENE_PIXELS), "uint8")
    quarter_pixels = SCENE_PIXELS // 2
    for quarter in random.permutation(4)[: random.integers(2, 5)]:
        i = random.integers(len(digits))
        size = random.integers(22, quarter_pixels + 1)
        digit = Image.fromarray(digits[i].astype("float32"))
        ink = np.array(digit.resize((size, size), Image.Resampling.BICUBIC)) > 7
        row, column = divmod(quarter, 2)
        y = quarter_pixels * row + random.integers(quarter_pixels - size + 1)
        x = quarter_pixels * column + random.integers(quarter_pixels - size + 1)
        scene[y : y + size, x : x + size][ink] = random.uniform(150, 255, 3)
        mask[y : y + size, x : x + size][ink] = 1 + labels[i]
    scene += random.normal(0, 8, scene.shape)
    return encode_png(scene.clip(0, 255).astype("uint8")), encode_png(mask)


def encode_png(pixels):
    """Encodes an image or a mask, uint8, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
