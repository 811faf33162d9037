"""The built-in data set: handwritten digits on photographs, with exact masks."""

import numpy as np

from apps.common.digit_scenes import (
    add_noise,
    crop_background,
    digit_ink,
    draw_splits,
    paint_digit,
)
from apps.common.images import encode_png

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
    return draw_splits(draw_scene, num_scenes, seed)


def draw_scene(random, digits, labels, backgrounds):
    """Draws one scene: two to four bright digits on a darkened part of a photograph.

    Each digit lies in a quarter of its own.

    Args:
        random: A NumPy random generator.
        digits: From `digit_scenes.materials`.
        labels: From `digit_scenes.materials`.
        backgrounds: From `digit_scenes.materials`.

    Returns:
        The scene and its mask, both PNG files.
    """
    scene = crop_background(random, backgrounds, SCENE_PIXELS)
    mask = np.zeros((SCENE_PIXELS, SCENE_PIXELS), "uint8")
    quarter_pixels = SCENE_PIXELS // 2
    for quarter in random.permutation(4)[: random.integers(2, 5)]:
        i = random.integers(len(digits))
        size = random.integers(22, quarter_pixels + 1)
        ink = digit_ink(digits[i], size)
        row, column = divmod(quarter, 2)
        y = quarter_pixels * row + random.integers(quarter_pixels - size + 1)
        x = quarter_pixels * column + random.integers(quarter_pixels - size + 1)
        paint_digit(random, scene, ink, y, x)
        mask[y : y + size, x : x + size][ink] = 1 + labels[i]
    return encode_png(add_noise(random, scene)), encode_png(mask)
