import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from apps.common import saved_models
from apps.common.errors import ExportRefused
from apps.semantic_segmentation import export as export_module
from apps.semantic_segmentation.data import decode_mask
from apps.semantic_segmentation.evaluate import load_model
from apps.semantic_segmentation.export import export
from apps.semantic_segmentation.model import load_segmenter


def test_everything_is_there(exported):
    assert sorted(path.name for path in (exported / "edge").iterdir()) == [
        "crf.tflite",
        "dynamic_range.tflite",
        "float32.tflite",
        "labels.txt",
        "model.tflite",
        "requirements.txt",
        "run.py",
    ]
    labels = (exported / "edge/labels.txt").read_text().splitlines()
    assert [line.rsplit(" ", 1)[0] for line in labels] == ["ground", "disc", "box"]
    assert labels[1] == "disc #ff8000"
    assert (exported / "1/assets.extra/tf_serving_warmup_requests").exists()
    card = json.loads((exported / "card.json").read_text())
    assert [row["engine"] for row in card["engines"]] == [
        "trained model",
        "SavedModel",
        *export_module.VARIANTS,
        "trained model with CRF",
        "SavedModel with CRF",
        "model.tflite with crf.tflite",
    ]
    for row in card["engines"]:
        assert row["mean_iou"] > 0.8
        assert row["size_MB"] > 0
        assert row["latency_ms"] > 0
    assert card["classes"] == ["ground", "disc #ff8000", "box"]
    text = (exported / "card.md").read_text()
    assert "| SavedModel with CRF |" in text
    assert "CONV_2D" in text
    assert "the same, refined by the CRF" in text


def test_warm_up_requests_fit_their_signatures(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    loaded = tf.saved_model.load(str(exported / "1"))
    path = exported / "1/assets.extra/tf_serving_warmup_requests"
    answered = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        name = request.model_spec.signature_name
        assert request.model_spec.name == "semantic_segmentation"
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        assert loaded.signatures[name](**inputs)
        answered.add(name)
    assert answered == {"serving_default", "with_crf", "tensors"}


def test_a_broken_promise_publishes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "CHANGED_PIXELS", -1.0)
    with pytest.raises(ExportRefused, match="nothing was published"):
        export(run, tmp_path / "models", variants=("float32",), crf=False)
    assert list(tmp_path.iterdir()) == []


def test_the_crf_can_be_left_out(run, tmp_path):
    export(run, tmp_path / "models", variants=("float32",), crf=False)
    loaded = tf.saved_model.load(str(tmp_path / "models/1"))
    assert set(loaded.signatures) == {"serving_default", "tensors"}
    names = {path.name for path in (tmp_path / "models/edge").iterdir()}
    assert names == {"model.tflite", "labels.txt", "requirements.txt", "run.py"}
    assert "with_crf" not in (tmp_path / "models/card.md").read_text()


def test_the_tensors_signature_takes_prepared_images(run, exported):
    images = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype("float32")
    loaded = tf.saved_model.load(str(exported / "1"))
    scores = loaded.signatures["tensors"](images=tf.constant(images))["scores"]
    expected = load_segmenter(run).tensors(images)["scores"]
    # The exported variables have half precision.
    np.testing.assert_allclose(scores, expected, atol=5e-3)


# Nothing of ours is imported, so no operation of ours can be registered.
STOCK = """
import sys
import numpy as np
import tensorflow as tf

path, answers, *images = sys.argv[1:]
signature = tf.saved_model.load(path).signatures["with_crf"]
encoded = [open(image, "rb").read() for image in images]
masks = signature(image_bytes=tf.constant(encoded))["mask_bytes"].numpy()
assert not {"layers", "apps"} & set(sys.modules)
np.savez(answers, *[tf.io.decode_png(mask)[..., 0].numpy() for mask in masks])
"""


def test_stock_tensorflow_runs_the_crf(run, exported, own_data, tmp_path):
    names = saved_models.operations(exported / "1")
    assert "SparseTensorDenseMatMul" in names  # The CRF is in the graph.
    assert not [name for name in names if "PyFunc" in name or "XlaCall" in name]
    paths = sorted((own_data / "images").iterdir())[:4]
    subprocess.run(
        [sys.executable, "-c", STOCK, exported / "1", "answers.npz", *paths],
        cwd=tmp_path,
        check=True,
    )
    encoded = [path.read_bytes() for path in paths]
    expected = load_model(str(run), "with_crf")(encoded)["mask_bytes"]
    with np.load(tmp_path / "answers.npz") as answers:
        for name, mask in zip(answers.files, expected, strict=True):
            assert (answers[name] == decode_mask(mask)).mean() >= 0.999
