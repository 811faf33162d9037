import json
from pathlib import Path

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.semantic_segmentation.predict import name_masks, read_classes

ANSWERED = np.array([[b"road", b"", b"car"], [b"", b"tree", b"car"]], object)


def test_masks_are_named_like_their_images():
    paths = name_masks(Path("masks"), ["street/a.jpg", "b.png"])
    assert paths == [Path("masks/a.png"), Path("masks/b.png")]


@pytest.mark.parametrize(
    ("folder", "names"),
    [("masks", ["one/a.jpg", "two/a.png"]), (".", ["a.png", "b.jpg"])],
)
def test_no_mask_replaces_an_image_or_another_mask(folder, names):
    with pytest.raises(BadInput, match="a mask would replace an image, or another"):
        name_masks(Path(folder), names)


def test_classes_with_colors_come_from_a_run_a_version_or_a_bundle(tmp_path):
    run, models = tmp_path / "run", tmp_path / "models"
    for folder in (run, models / "1/assets.extra", models / "edge"):
        folder.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "classes.json").write_text(json.dumps(["road #804080", "tree", "car"]))
    (models / "1/assets.extra/card.json").write_text('{"classes": ["old"]}')
    (models / "card.json").write_text('{"classes": ["new"]}')
    (models / "edge/model.tflite").touch()
    assert read_classes(str(run), ANSWERED) == ["road #804080", "tree", "car"]
    assert read_classes(str(models / "1"), ANSWERED) == ["old"]
    assert read_classes(str(models / "edge"), ANSWERED) == ["new"]
    assert read_classes(str(models / "edge/model.tflite"), ANSWERED) == ["new"]


def test_a_model_without_a_record_names_its_classes_in_its_answers(tmp_path):
    assert read_classes(str(tmp_path), ANSWERED) == ["road", "tree", "car"]
