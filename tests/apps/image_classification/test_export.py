import json

import pytest

from apps.common.errors import ExportRefused
from apps.image_classification import export as export_module
from apps.image_classification.export import export


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
        *export_module.VARIANTS,
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
