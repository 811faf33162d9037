import json

import numpy as np

from apps.semantic_segmentation.predict import read_classes

ANSWERED = np.array([[b"road", b"", b"car"], [b"", b"tree", b"car"]], object)


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
