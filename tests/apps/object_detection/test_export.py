import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common import lite
from apps.common.errors import BadInput
from apps.common.saved_models import fold_batch_normalization
from apps.object_detection.edge import load_model
from apps.object_detection.evaluate import evaluate
from apps.object_detection.export import bundle, choose_variants, export
from apps.object_detection.predict import predict
from apps.object_detection.signatures import Detector
from apps.object_detection.train import train
from tests.apps.app_contract import run_on_device
from tests.apps.object_detection.conftest import APP, sure_boxes
from tests.apps.object_detection.shapes import CLASSES, COLORS, small, write
from tests.apps.object_detection.untrained import random_network


def test_the_confidence_is_recorded_everywhere(run, exported):
    confidence = json.loads((run / "confidence.json").read_text())["confidence"]
    assert 0 < confidence < 1
    card = json.loads((exported / "card.json").read_text())
    assert card["confidence"] == confidence
    text = (exported / "card.md").read_text()
    assert f"- Show boxes with scores from {confidence:g} on" in text
    assert "overlap by an IoU above 0.6" in text
    settings = json.loads((exported / "edge/settings.json").read_text())
    assert settings == {"iou": 0.6, "min_score": 0.01, "confidence": confidence}
    assert (exported / "edge/labels.txt").read_text() == "box\ndisc\n"


def test_a_device_draws_the_boxes_that_it_prints(device, own_data, tmp_path):
    path = own_data / "JPEGImages/even_02.png"
    numbers = []
    for flags in ((), ("--confidence", "1")):
        done = run_on_device(device, path, "--to", "drawn", *flags, folder=tmp_path)
        *answers, last = (line.split("\t")[1:] for line in done.stdout.splitlines())
        numbers.append(len(answers))
        assert last == ["boxes", "drawn/even_02_boxes.png"]
        with Image.open(path) as image, Image.open(tmp_path / last[1]) as drawn:
            factor = 480 // max(image.size)
            assert drawn.size == (factor * image.width, factor * image.height)
            enlarged = image.resize(drawn.size)
            is_changed = (np.asarray(drawn) != np.asarray(enlarged)).any(axis=-1)
        for name, score, *sides in answers:
            assert name in COLORS
            assert 0 < float(score) <= 1
            left, top, right, bottom = (round(factor * float(side)) for side in sides)
            # The lower sides, which no label hides.
            assert is_changed[bottom - 4 : bottom + 1, left + 4 : right - 4].any()
            assert is_changed[top + 20 : bottom - 4, right - 3 : right + 1].any()
    assert numbers[0] > numbers[1] == 0
    assert not is_changed.any()


@pytest.mark.parametrize("model", ["one_stage", "faster_rcnn"])
def test_a_device_finds_the_boxes_of_the_network(tmp_path, model):
    """All boxes, low scores included."""
    network = random_network(model)
    config = small("", model=model, iou=0.5, min_score=0.02)
    detector = Detector(network, (64, 96), CLASSES, config)
    folded = Detector(fold_batch_normalization(network), (64, 96), CLASSES, config)
    lite.write_bundle(bundle(folded, 0.5, None), tmp_path / "edge", ["float32"])
    write(tmp_path / "data", range(6))
    encoded = [path.read_bytes() for path in (tmp_path / "data/JPEGImages").iterdir()]
    answers = detector.signatures["serving_default"](tf.constant(encoded))
    on_device = load_model(tmp_path / "edge/float32.tflite")(encoded)
    np.testing.assert_array_equal(
        on_device["num_detections"], answers["num_detections"]
    )
    assert answers["num_detections"].numpy().min() > 3
    np.testing.assert_array_equal(on_device["classes"], answers["classes"])
    np.testing.assert_allclose(on_device["scores"], answers["scores"], atol=1e-4)
    np.testing.assert_allclose(on_device["boxes"], answers["boxes"], atol=1e-2)
    names = {path.name for path in (tmp_path / "edge").iterdir()}
    files = {"labels.txt", "requirements.txt", "run.py", "settings.json"}
    assert names == {*files, "float32.tflite"}


def test_a_kind_of_model_has_its_own_variants():
    assert choose_variants("one_stage", ()) == ("float32", "dynamic_range", "int8")
    assert choose_variants("faster_rcnn", ()) == ("float32", "dynamic_range")
    assert choose_variants("faster_rcnn", ["float32"]) == ["float32"]
    message = "--variants int8: a faster_rcnn model has no such variant; choose from"
    with pytest.raises(BadInput, match=message):
        choose_variants("faster_rcnn", ["float32", "int8"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "model"), [("coco", "one_stage"), ("yolo", "faster_rcnn")]
)
def test_data_of_other_formats_goes_all_the_way(tmp_path, format, model):
    """The contract takes Pascal VOC all the way."""
    data, run = tmp_path / "data", tmp_path / "run"
    write(data, range(12), format)
    config = small(data, model=model, epochs=2)
    train(config, run)
    report = evaluate(str(run), figures_folder=tmp_path / "figures")
    assert report["images"] == 3
    assert set(report["classes"]) == set(CLASSES)
    version = export(run, tmp_path / "models", ["float32"])
    files = tmp_path / "results.json", tmp_path / "figure.png"
    paths = sorted(data.rglob("*.png"))
    answers = [
        predict(paths, str(model), 0.5, *files)
        for model in (run, version, tmp_path / "models/edge")
    ]
    for others in answers[1:]:
        for i in range(len(paths)):
            boxes, _, scores = sure_boxes(answers[0], i)
            number = len(boxes)
            np.testing.assert_allclose(others["boxes"][i][:number], boxes, atol=0.5)
            np.testing.assert_allclose(others["scores"][i][:number], scores, atol=0.01)
    assert (
        APP.metric
        in json.loads((tmp_path / "models/card.json").read_text())["engines"][0]
    )
