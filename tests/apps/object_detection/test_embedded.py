import io

import numpy as np
from PIL import Image

from apps.object_detection.embedded import CLASSES, scenes

SIDE = 96


def decode(png):
    return np.array(Image.open(io.BytesIO(png)))


def contents(drawn):
    """Returns everything in the scenes of a split, to compare it."""
    return [(png, boxes.tolist(), classes.tolist()) for png, boxes, classes in drawn]


def test_scenes_have_boxes_and_classes_of_their_digits():
    drawn = scenes(num_scenes=50)
    assert {split: len(part) for split, part in drawn.items()} == {
        "train": 40,
        "test": 10,
    }
    heights, seen, numbers = [], set(), set()
    for png, boxes, classes in drawn["train"]:
        assert decode(png).shape == (SIDE, SIDE, 3)
        assert boxes.shape == (len(classes), 4)
        assert boxes.dtype == np.float32
        assert (boxes >= 0).all()
        assert (boxes <= SIDE).all()
        heights += (boxes[:, 3] - boxes[:, 1]).tolist()
        seen |= set(classes.tolist())
        numbers.add(len(classes))
    assert 9 <= min(heights) < 16
    assert 36 < max(heights) <= 48
    assert seen == set(range(len(CLASSES)))
    assert numbers == {1, 2, 3, 4, 5}


def test_boxes_are_exact(monkeypatch):
    """Without a photograph and without noise, only digits are bright."""
    monkeypatch.setattr(
        "apps.object_detection.embedded.crop_background",
        lambda random, backgrounds, size: np.zeros((size, size, 3)),
    )
    monkeypatch.setattr(
        "apps.object_detection.embedded.add_noise",
        lambda random, scene: scene.astype("uint8"),
    )
    for png, boxes, _ in scenes(num_scenes=30)["train"]:
        pixels, found = decode(png), []
        colors = np.unique(pixels.reshape(-1, 3), axis=0)[1:]  # Each has its own.
        for color in colors:
            rows, columns = np.nonzero((pixels == color).all(axis=-1))
            found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert sorted(found) == sorted(map(tuple, boxes))


def test_scenes_depend_on_the_seed_alone():
    same, again, other = (scenes(5, seed=seed)["train"] for seed in (3, 3, 4))
    assert contents(same) == contents(again) != contents(other)
