"""The built-in data set: handwritten digits on photographs, with exact boxes."""

import numpy as np

from apps.common.digit_scenes import (
    add_noise,
    crop_background,
    digit_ink,
    draw_splits,
    paint_digit,
)
from apps.common.images import encode_png

CLASSES = tuple(f"digit {i}" for i in range(10))
SCENE_PIXELS = 96  # Height and width of a scene.
MIN_PIXELS, MAX_PIXELS = 12, 48  # Height of a digit.
MAX_DIGITS = 5  # In a scene.


def scenes(num_scenes=640, seed=0):
    """Draws scikit-learn's handwritten digits on parts of its photographs.

    The training scenes and the test scenes have no digit and no part of a photograph in
    common.

    Args:
        num_scenes: Number of scenes; 80 % are for training and 20 % for testing.
        seed: Seed of the drawing.

    Returns:
        For `train` and `test` a list of scenes, as `draw_scene` returns them.
    """
    return draw_splits(draw_scene, num_scenes, seed)


def draw_scene(random, digits, labels, backgrounds):
    """Draws one scene: one to five bright digits on a darkened part of a photograph.

    Small and large digits are equally frequent. Boxes may overlap, ink does not.

    Args:
        random: A NumPy random generator.
        digits: From `digit_scenes.materials`.
        labels: From `digit_scenes.materials`.
        backgrounds: From `digit_scenes.materials`.

    Returns:
        The scene, a PNG file; the boxes around the ink, float32 `(digits, 4)`: x1, y1,
        x2, y2 in pixels; and the positions of their classes in `CLASSES`, int
        `(digits,)`.
    """
    scene = crop_background(random, backgrounds, SCENE_PIXELS)
    is_painted = np.zeros(scene.shape[:2], bool)
    boxes, classes = [], []
    num_digits = random.integers(1, MAX_DIGITS + 1)
    while len(boxes) < num_digits:
        i = random.integers(len(digits))
        size = round(np.exp(random.uniform(np.log(MIN_PIXELS), np.log(MAX_PIXELS))))
        ink = digit_ink(digits[i], size)
        top, left = random.integers(SCENE_PIXELS - size + 1, size=2)
        place = is_painted[top : top + size, left : left + size]
        if (place & ink).any():
            continue  # Tries another digit at another place.
        place |= ink
        paint_digit(random, scene, ink, top, left)
        boxes.append(np.add(_ink_box(ink), (left, top, left, top)))
        classes.append(labels[i])
    scene = encode_png(add_noise(random, scene))
    return scene, np.array(boxes, "float32"), np.array(classes)


def _ink_box(ink):
    """Returns the box around the pixels with ink: x1, y1, x2, y2."""
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
