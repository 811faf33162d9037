"""The built-in data set: faces drawn from a few parameters, and their attributes."""

import numpy as np
from PIL import Image, ImageDraw

from apps.common.images import encode_png

FACE_PIXELS = 64  # Height and width of a face.
SCALE = 4  # Faces are drawn larger and shrunk, which smooths their edges.
COLUMNS = ("smiling", "glasses", "hair")
HAIR = {
    "black": (28, 24, 26),
    "brown": (105, 62, 34),
    "blond": (226, 188, 104),
    "red": (178, 66, 30),
}
# The lightest and the darkest skin.
SKINS = np.array([(250, 218, 192), (104, 66, 44)])


def faces(num_faces=3000, seed=0):
    """Draws faces.

    Args:
        num_faces: Number of faces; 80 % are for training and 20 % for testing.
        seed: Seed of the drawing.

    Returns:
        For `train` and `test` a list of faces, as `draw_face` returns them.
    """
    random = np.random.default_rng(seed)
    drawn = [draw_face(random) for _ in range(num_faces)]
    num_train = round(0.8 * num_faces)
    return {"train": drawn[:num_train], "test": drawn[num_train:]}


def draw_face(random):
    """Draws one face.

    Args:
        random: A NumPy random generator.

    Returns:
        The face, a PNG file, and its attributes in the order of `COLUMNS`.
    """
    is_smiling, has_glasses, has_long_hair = random.integers(2, size=3).astype(bool)
    hair = list(HAIR)[random.integers(len(HAIR))]
    colors = {
        "background": tuple(random.integers(110, 240, size=3).tolist()),
        "hair": _vary(random, HAIR[hair]),
        "skin": _vary(random, SKINS[0] + random.uniform() * (SKINS[1] - SKINS[0])),
    }
    # In pixels of the face; the origin is its centre.
    center = 32 + random.uniform(-2, 2, size=2) + (0, 2)
    width, height = random.uniform(15, 18), random.uniform(19, 22)
    image = Image.new("RGB", 2 * (SCALE * FACE_PIXELS,), colors["background"])
    draw = ImageDraw.Draw(image)

    def box(x, y, half_width, half_height):
        middle, half = center + np.array((x, y)), np.array((half_width, half_height))
        return [tuple(SCALE * (middle - half)), tuple(SCALE * (middle + half))]

    def line(points, color, thickness):
        points = [tuple(SCALE * (center + point)) for point in points]
        draw.line(points, color, round(SCALE * thickness), joint="curve")

    # Hair behind the face, shoulders, neck, face, hair above the face.
    draw.ellipse(box(0, -4, width + 3, height), colors["hair"])
    if has_long_hair:
        draw.rectangle(box(0, 9, width + 3, 13), colors["hair"])
    draw.ellipse(box(0, 42, 27, 17), _vary(random, random.integers(30, 220, size=3)))
    draw.rectangle(box(0, 20, 6, 8), colors["skin"])
    draw.ellipse(box(0, 0, width, height), colors["skin"])
    fringe = random.uniform(190, 205)
    draw.chord(box(0, -1, width, height), fringe, 540 - fringe, colors["hair"])
    _draw_features(random, draw, box, line, colors, is_smiling)
    if has_glasses:
        _draw_glasses(random, draw, box, line)
    pixels = np.asarray(image.resize(2 * (FACE_PIXELS,), Image.Resampling.BOX))
    attributes = ("yes" if is_smiling else "no", "yes" if has_glasses else "no", hair)
    return encode_png(pixels), attributes


EYES = 7, -2  # Distance of the eyes from the middle, and their height.


def _draw_features(random, draw, box, line, colors, is_smiling):
    """Draws eyes, brows, nose and mouth."""
    dark = tuple(int(0.72 * value) for value in colors["skin"])
    iris = _vary(random, ((70, 110, 160), (80, 52, 30))[random.integers(2)])
    x, y = EYES
    opening, lift = random.uniform(1.6, 2.6), random.uniform(4.5, 6.5)
    for side in (-x, x):
        draw.ellipse(box(side, y, 3.4, opening), (250, 250, 250))
        draw.ellipse(box(side, y, opening * 0.75, opening * 0.75), iris)
        line([(side - 3.5, y - lift), (side + 3.5, y - lift)], colors["hair"], 1.3)
    line([(0, 0), (-1.8, 6), (1, 6.5)], dark, 1)
    half, bend = random.uniform(5, 7), random.uniform(3, 5)
    steps = np.linspace(-1, 1, 13)
    bend = bend if is_smiling else -0.25 * bend
    lips = (190, 60, 65)
    line([(half * step, 12.5 - bend * (step**2 - 0.5)) for step in steps], lips, 1.8)


def _draw_glasses(random, draw, box, line):
    """Draws glasses around the eyes."""
    frame = _vary(random, (40, 40, 45))
    (x, y), radius = EYES, random.uniform(4.8, 5.6)
    for side in (-x, x):
        draw.ellipse(box(side, y, radius, radius), outline=frame, width=SCALE)
    line([(radius - x, y), (x - radius, y)], frame, 1)


def _vary(random, color):
    """Returns a colour near another one."""
    varied = np.asarray(color) + random.normal(0, 6, size=3)
    return tuple(varied.clip(0, 255).astype(int).tolist())
