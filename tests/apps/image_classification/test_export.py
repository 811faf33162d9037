import json

import numpy as np
import pytest

from apps.common.errors import ExportRefused
from apps.image_classification import export as export_module
from apps.image_classification.export import VARIANTS, check, choose, export, keep


def test_everything_is_there(exported):
    assert sorted(path.name for path in (exported / "edge").iterdir()) == [
        "dynamic_range.tflite",
        "float32.tflite",
        "labels.txt",
        "model.tflite",
        "requirements.txt",
        "run.py",
    ]
    assert (exported / "edge/labels.txt").read_text() == "blue\ngreen\nred\n"
    assert (exported / "1/assets.extra/tf_serving_warmup_requests").exists()
    card = json.loads((exported / "card.json").read_text())
    assert [row["engine"] for row in card["engines"]] == [
        "trained model",
        "SavedModel",
        *VARIANTS,
    ]
    for row in card["engines"]:
        assert row["accuracy"] == 1.0
        assert row["size_MB"] > 0
        assert row["latency_ms"] > 0
    text = (exported / "card.md").read_text()
    assert "| SavedModel | 1.0 |" in text
    assert "CONV_2D" in text


def test_a_broken_promise_publishes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "SAVED_MODEL_DIFFERENCE", -1.0)
    with pytest.raises(ExportRefused, match="nothing was published"):
        export(run, tmp_path / "models", variants=("float32",))
    assert list(tmp_path.iterdir()) == []


def rows(**accuracies):
    return [
        {"engine": name, "accuracy": accuracy, "largest_score_difference": 0.0}
        for name, accuracy in {"SavedModel": 0.9, **accuracies}.items()
    ]


@pytest.mark.parametrize("difference", [0.01, np.nan])
@pytest.mark.parametrize("engine", [0, 1])
def test_exact_engines_must_be_exact(difference, engine):
    engines = rows(float32=0.9)
    check(engines)
    engines[engine]["largest_score_difference"] = difference
    with pytest.raises(ExportRefused):
        check(engines)


def test_the_leanest_variant_within_a_point_is_recommended():
    assert choose(rows(float32=0.9, dynamic_range=0.9, int8=0.891), VARIANTS) == "int8"
    engines = rows(float32=0.9, dynamic_range=0.893, int8=0.88)
    assert choose(engines, VARIANTS) == "dynamic_range"
    with pytest.raises(ExportRefused, match="within a point"):
        choose(rows(int8=0.8), ["int8"])


def test_variants_that_fall_short_are_left_out(tmp_path):
    for variant in VARIANTS:
        (tmp_path / f"{variant}.tflite").write_text(variant)
    engines = rows(float32=0.9, dynamic_range=0.895, int8=0.7)
    keep(tmp_path, engines, VARIANTS, "dynamic_range")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "float32.tflite": "float32",
        "model.tflite": "dynamic_range",
    }
