import io
import re

import numpy as np
import pytest
from PIL import Image

from apps.common import digit_scenes
from apps.image_captioning import data, embedded
from apps.image_captioning.embedded import DIGITS, SCENE_PIXELS, caption, scenes
from tests.apps.image_captioning.tiny import small

THING = rf"a (small|large) ({'|'.join(DIGITS)})"
CAPTION = re.compile(f"{THING} (above|below|left of|right of) {THING}")


def decode(png):
    return np.array(Image.open(io.BytesIO(png)))


@pytest.fixture(scope="module")
def plain_scenes():
    """Scenes on black ground without noise, where only digits are bright."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            embedded,
            "crop_background",
            lambda random, backgrounds, size: np.zeros((size, size, 3)),
        )
        patch.setattr(
            embedded, "add_noise", lambda random, scene: scene.astype("uint8")
        )
        return scenes(300)["train"]


def find_digits(pixels):
    """Returns the box of each colour: top, left, bottom and right."""
    colors = np.unique(pixels.reshape(-1, 3), axis=0)[1:]  # Each digit has its own.
    places = [np.nonzero((pixels == color).all(axis=-1)) for color in colors]
    return [(y.min(), x.min(), y.max() + 1, x.max() + 1) for y, x in places]


def test_captions_say_where_the_digits_are_and_how_large(plain_scenes):
    relations = set()
    for png, text in plain_scenes:
        boxes = find_digits(decode(png))
        assert len(boxes) == 2
        first_size, _, relation, second_size, _ = CAPTION.fullmatch(text).groups()
        relations.add((first_size, second_size, relation))
        axis = 0 if relation in ("above", "below") else 1
        # They do not overlap in this direction.
        before, behind = sorted(boxes, key=lambda box: box[axis])
        assert before[axis + 2] <= SCENE_PIXELS // 2 <= behind[axis]
        # In the other one they lie at about the same place.
        other = 1 - axis
        centers = [(box[other] + box[other + 2]) / 2 for box in boxes]
        assert abs(centers[0] - centers[1]) < 2 * embedded.MAX_SHIFT + 6
        named_first = before if relation in ("above", "left of") else behind
        named_second = behind if named_first is before else before
        for size, (top, _, bottom, _) in (
            (first_size, named_first),
            (second_size, named_second),
        ):
            low, high = embedded.SIZES[size]
            assert low - 6 <= bottom - top <= high  # Digits have thin edges.
    # Of the same size, the upper or left one is named first.
    same = {("small", "small"), ("large", "large")}
    assert relations == {
        *((*sizes, relation) for sizes in same for relation in ("above", "left of")),
        *(("large", "small", relation) for relation in embedded.RELATIONS),
    }


def test_captions_name_the_digits(monkeypatch):
    """With one digit only, every caption has its name."""
    digits, labels, _ = digit_scenes.materials("train")
    for value in (0, 7):
        chosen = digits[labels == value], labels[labels == value]
        monkeypatch.setattr(
            digit_scenes,
            "materials",
            lambda split, chosen=chosen: (*chosen, [np.zeros((70, 70, 3))]),
        )
        for _, text in scenes(10)["train"]:
            assert text.split()[2] == text.split()[-1] == DIGITS[value]


def test_the_larger_digit_is_named_first():
    two, three = ("small", 2), ("large", 3)
    assert caption(two, three, True) == "a large three below a small two"
    assert caption(three, two, True) == "a large three above a small two"
    assert caption(two, three, False) == "a large three right of a small two"
    assert caption(three, two, False) == "a large three left of a small two"
    assert caption(two, ("small", 3), True) == "a small two above a small three"
    assert caption(three, ("large", 2), False) == "a large three left of a large two"


def test_scenes_depend_on_the_seed_alone():
    same, again, other = (scenes(10, seed)["train"] for seed in (3, 3, 4))
    assert same == again
    assert same != other
    assert decode(same[0][0]).shape == (SCENE_PIXELS, SCENE_PIXELS, 3)


def test_scenes_are_read_as_examples(monkeypatch):
    monkeypatch.setattr(embedded, "scenes", lambda: scenes(50))
    splits = data.read_splits(small("scenes"))
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 40,
        "test": 10,
    }
    examples = splits["test"]
    png, text = scenes(50)["test"][3]
    assert examples.names[3] == "test scene 3"
    assert examples.image_bytes(3) == png
    assert examples.captions[3] == (text,)
    assert data.clean(text) == text
    splits = data.load_examples(small("scenes", validation_fraction=0.1))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [
        *(36, 4, 10)
    ]
    assert splits["test"].names == examples.names
