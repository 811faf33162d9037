import io

import numpy as np
from PIL import Image

from apps.common import pictures


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def count(image, color):
    return (np.abs(image.astype(int) - color).max(axis=-1) < 8).sum()


def test_a_grid_shows_every_image(tmp_path):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    encoded = [encode(np.full((80, 80, 3), color, "uint8")) for color in colors]
    path = tmp_path / "deep/grid.png"
    pictures.draw_grid(encoded, ["one", "two", "three"], path, columns=2)
    image = drawn(path)
    for color in colors:
        assert count(image, color) > 5000


def test_a_heat_map_is_laid_over_its_own_side(tmp_path):
    grey = encode(np.full((80, 80, 3), 128, "uint8"))
    heat = np.array([[0, 1], [0, 1]], "float32")
    pictures.draw_grid([grey], ["hot on the right"], tmp_path / "heat.png", [heat])
    image = drawn(tmp_path / "heat.png").astype(int)
    middle = image.shape[1] // 2
    warmth = image[..., 0] - image[..., 2]
    assert warmth[:, middle + 20 :].mean() > warmth[:, : middle - 20].mean() + 20


def test_an_empty_grid_is_drawn_too(tmp_path):
    pictures.draw_grid([], [], tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()


def test_thumbnails_are_small_and_transparency_is_white():
    large = pictures.thumbnail(encode(np.zeros((900, 1800, 3), "uint8")))
    assert large.shape == (160, 320, 3)
    assert pictures.thumbnail(encode(np.zeros((8, 8, 3), "uint8"))).shape == (8, 8, 3)
    assert pictures.thumbnail(encode(np.zeros((8, 8, 4), "uint8"))).min() == 255
    sixteen = pictures.thumbnail(encode(np.full((8, 8), 128 << 8, "uint16")))
    assert sixteen.min() == sixteen.max() == 128


def test_curves_and_confusion_matrix(tmp_path):
    history = [
        {"epoch": i, "loss": 1 / (i + 1), "val_loss": 1.0, "seconds": 2.0}
        for i in range(4)
    ]
    pictures.draw_curves(history, tmp_path / "curves.png")
    assert drawn(tmp_path / "curves.png").std() > 10
    pictures.draw_confusion_matrix(
        np.array([0, 1, 1]),
        np.array([0, 1, 0]),
        ["a", "b"],
        tmp_path / "confusion.png",
    )
    assert drawn(tmp_path / "confusion.png").std() > 10
