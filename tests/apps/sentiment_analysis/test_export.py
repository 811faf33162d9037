import json
import subprocess
import sys

import pytest
import tensorflow as tf

from apps.common import saved_models
from apps.common.errors import BadInput, ExportRefused
from apps.sentiment_analysis import export as export_module
from apps.sentiment_analysis.export import VARIANTS, export
from apps.sentiment_analysis.tokenizer import CLEANING


def test_everything_is_there(run, exported):
    assert sorted(path.name for path in (exported / "edge").iterdir()) == [
        "cleaning.json",
        "float32.tflite",
        "labels.txt",
        "model.tflite",  # The leanest, of dynamic range.
        "requirements.txt",
        "run.py",
        "tokenizer.model",
    ]
    edge = exported / "edge"
    assert (edge / "labels.txt").read_text() == "negative\nneutral\npositive\n"
    cleaning = json.loads((edge / "cleaning.json").read_text())
    assert cleaning == [list(pair) for pair in CLEANING]
    tokenizer = (edge / "tokenizer.model").read_bytes()
    assert tokenizer == (run / "tokenizer.model").read_bytes()
    assert "sentencepiece" in (edge / "requirements.txt").read_text()
    card = json.loads((exported / "card.json").read_text())
    assert [row["engine"] for row in card["engines"]] == [
        "trained model",
        "SavedModel",
        *VARIANTS,
    ]
    for row in card["engines"]:
        assert row["macro_recall"] >= 0.97
        assert row["same_classes"] >= 0.99
        assert 0 <= row["expected_calibration_error"] < 0.3
        assert row["size_MB"] > 0
        assert row["latency_ms"] > 0
    assert card["config"]["data"] == "sentences"
    text = (exported / "card.md").read_text()
    assert "| SavedModel |" in text
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM 2" in text


@pytest.mark.parametrize("name", ["float32", "model"])
def test_each_direction_is_one_operation_on_a_device(name, exported):
    path = exported / f"edge/{name}.tflite"
    operations = saved_models.lite_operations(path.read_bytes())
    assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
    assert not [
        name for name in operations if name.startswith(("WHILE", "Flex", "CUSTOM"))
    ]


def test_warm_up_requests_fit_their_signatures(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    loaded = tf.saved_model.load(str(exported / "1"))
    path = exported / "1/assets.extra/tf_serving_warmup_requests"
    answered = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        name = request.model_spec.signature_name
        assert request.model_spec.name == "sentiment_analysis"
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        assert loaded.signatures[name](**inputs)
        answered.add(name)
    assert answered == {"serving_default", "tensors"}


@pytest.mark.parametrize("promise", ["SAVED_MODEL_DIFFERENCE", "FLOAT32_DIFFERENCE"])
def test_a_broken_promise_publishes_nothing(promise, run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, promise, -1.0)
    with pytest.raises(ExportRefused, match="nothing was published"):
        export(run, tmp_path / "models", variants=("float32",))
    assert list(tmp_path.iterdir()) == []


def test_a_variant_that_changes_classes_is_left_out(run, tmp_path, monkeypatch):
    measure = export_module.measure

    def spoil(*arguments):
        """Lets the last variant give a twentieth of the texts another class."""
        measurements, reference = measure(*arguments)
        spoil.calls += 1
        if spoil.calls == 4:
            measurements["same_classes"] -= 0.05
        return measurements, reference

    spoil.calls = 0
    monkeypatch.setattr(export_module, "measure", spoil)
    export(run, tmp_path / "models")
    names = {path.name for path in (tmp_path / "models/edge").glob("*.tflite")}
    assert names == {"model.tflite"}
    card = json.loads((tmp_path / "models/card.json").read_text())
    assert "device: float32" in json.dumps(card)


def test_what_was_not_trained_is_not_exported(tmp_path):
    with pytest.raises(BadInput, match="holds no trained model"):
        export(tmp_path, tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


# Neither a layer of ours nor keras-nlp is imported, so no operation can come from them.
STOCK = """
import sys
from apps.common.predictors import load_predictor

where, *texts = sys.argv[1:]
answers = load_predictor(where, load_run=None)(texts)
assert not {"layers", "apps.sentiment_analysis", "keras_nlp"} & set(sys.modules)
print([row[0].decode() for row in answers["classes"]])
"""


def test_the_operations_of_tensorflow_text_are_enough(exported):
    texts = ["the soup was so good", "the soup was so bad"]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, exported / "1", *texts],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "['positive', 'negative']"
    names = saved_models.operations(exported / "1")
    assert [name for name in names if "Sentencepiece" in name]
