"""The built-in data set: scenes of two handwritten digits, and captions about them."""

from num2words import num2words

from apps.common.digit_scenes import (
    add_noise,
    crop_background,
    digit_ink,
    draw_splits,
    paint_digit,
)
from apps.common.images import encode_png

SCENE_PIXELS = 64  # Height and width of a scene.
SMALL = (18, 21)  # Heights of small digits, from and to.
LARGE = (28, 31)
DIGITS = [num2words(digit) for digit in range(10)]
SIZES = {"small": SMALL, "large": LARGE}
MAX_DEGREES = 8  # By which digits are turned.
# Pixels by which a digit may lie beside the common row or column of both.
MAX_SHIFT = 4
# How the first digit of a caption lies to the second one.
RELATIONS = ("above", "below", "left of", "right of")


def scenes(num_scenes=10_000, seed=0):
    """Draws pairs of scikit-learn's handwritten digits on parts of its photographs.

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
    """Draws one scene: two bright digits on a darkened part of a photograph.

    Args:
        random: A NumPy random generator.
        digits: From `digit_scenes.materials`.
        labels: From `digit_scenes.materials`.
        backgrounds: From `digit_scenes.materials`.

    Returns:
        The scene, a PNG file, and its caption, such as "a large three above a small
        seven".
    """
    scene = crop_background(random, backgrounds, SCENE_PIXELS)
    is_stacked = bool(random.integers(2))
    half = SCENE_PIXELS // 2
    margin = (LARGE[1] + 1) // 2 + MAX_SHIFT
    centre = int(random.integers(margin, SCENE_PIXELS - margin + 1))
    things = []
    for side in range(2):
        i = random.integers(len(digits))
        name = ("small", "large")[random.integers(2)]
        size = int(random.integers(SIZES[name][0], SIZES[name][1] + 1))
        along = side * half + int(random.integers(half - size + 1))
        shift = int(random.integers(-MAX_SHIFT, MAX_SHIFT + 1))
        across = centre + shift - size // 2
        top, left = (along, across) if is_stacked else (across, along)
        degrees = random.uniform(-MAX_DEGREES, MAX_DEGREES)
        paint_digit(random, scene, digit_ink(digits[i], size, degrees), top, left)
        things.append((name, int(labels[i])))
    return encode_png(add_noise(random, scene)), caption(*things, is_stacked)


def caption(first, second, is_stacked):
    """Returns the caption of two digits.

    The larger digit is named first; of the same size, the one that is upper or left.

    Args:
        first: The size, `small` or `large`, and the value of the upper or left digit.
        second: Those of the other one.
        is_stacked: Whether one is above the other, rather than beside it.
    """
    relation = RELATIONS[0 if is_stacked else 2]
    if (first[0], second[0]) == ("small", "large"):
        first, second = second, first
        relation = RELATIONS[1 if is_stacked else 3]
    names = [f"a {size} {DIGITS[digit]}" for size, digit in (first, second)]
    return f"{names[0]} {relation} {names[1]}"
