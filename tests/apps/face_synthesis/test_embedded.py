import io

import numpy as np
from PIL import Image

from apps.face_synthesis import embedded
from apps.face_synthesis.data import read_splits
from tests.apps.face_synthesis.tiny import small


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


FACES = embedded.faces(300)


def test_faces_depend_on_the_seed_alone():
    assert embedded.faces(20) == embedded.faces(20)
    assert embedded.faces(20, seed=1) != embedded.faces(20)
    assert len({png for png, _ in FACES["train"] + FACES["test"]}) == 300
    assert {split: len(faces) for split, faces in FACES.items()} == {
        "train": 240,
        "test": 60,
    }
    assert pixels(FACES["test"][0][0]).shape == (64, 64, 3)


def test_all_values_occur_about_as_often():
    values = np.array([attributes for _, attributes in FACES["train"]])
    for column, number in zip(values.T, (2, 2, 4), strict=True):
        _, counts = np.unique(column, return_counts=True)
        assert len(counts) == number
        assert counts.min() > 0.6 * len(values) / number


def mean_of(column, value):
    """Returns the mean of the faces with this value of an attribute."""
    i = embedded.COLUMNS.index(column)
    chosen = [png for png, attributes in FACES["train"] if attributes[i] == value]
    return np.mean([pixels(png) for png in chosen], axis=0)


def test_attributes_are_seen():
    # Blond hair is light and red hair is red, above the face.
    top = {value: mean_of("hair", value)[16:20, 26:38] for value in embedded.HAIR}
    assert top["blond"].mean() > 50 + top["black"].mean()
    redness = {
        value: each[..., 0].mean() - each[..., 2].mean() for value, each in top.items()
    }
    assert max(redness, key=redness.get) in ("red", "blond")
    # Glasses darken the places around the eyes.
    plain, glasses = (
        mean_of("glasses", value)[26:38, 14:50] for value in ("no", "yes")
    )
    assert glasses.mean() < plain.mean() - 3
    # The corners of a smiling mouth are higher than its middle.
    smile = mean_of("smiling", "yes") - mean_of("smiling", "no")
    green = smile[40:54, 22:42, 1]
    corners, middle = green[:, [2, 3, -4, -3]].mean(1), green[:, 9:11].mean(1)
    assert corners.argmin() < middle.argmin()


def test_faces_are_read_as_examples(monkeypatch):
    monkeypatch.setattr(embedded, "faces", lambda: FACES)
    splits = read_splits(small("drawn_faces"))
    examples = splits["test"]
    assert examples.columns == embedded.COLUMNS
    assert examples.names[3] == "test face 3"
    assert (examples.image_bytes(3), examples.attributes[3]) == FACES["test"][3]
    (hair,) = read_splits(small("drawn_faces", columns=("hair",)))["test"].attributes[3]
    assert hair == FACES["test"][3][1][2]
