import io
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common import runs
from apps.object_detection.config import MAX_BOXES, Config
from apps.object_detection.signatures import Detector, load_run, read_confidence
from tests.apps.object_detection.shapes import CLASSES, draw, small
from tests.apps.object_detection.untrained import random_network, write_run

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
THRESHOLDS = Config("", iou=0.5, min_score=0.1)


def encode(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def detector_of(boxes, scores):
    """Returns a detector whose network always finds these boxes."""

    def candidates(images):
        number = tf.shape(images)[0]
        return [
            tf.tile(tf.constant([each], tf.float32), [number, 1, 1])
            for each in (boxes, scores)
        ]

    network = SimpleNamespace(candidates=candidates, variables=[])
    return Detector(network, (64, 64), CLASSES, THRESHOLDS)


def ask(detector, inputs, signature="serving_default"):
    answers = detector.signatures[signature](tf.constant(inputs))
    return {name: value.numpy() for name, value in answers.items()}


@pytest.mark.parametrize(
    ("size", "box"),
    [
        # The network sees these images as 64×64, 64×32, 32×64 and 64×64 pixels.
        ((64, 64), (8, 4, 24, 28)),
        ((200, 100), (25, 12.5, 75, 87.5)),
        ((50, 100), (12.5, 6.25, 37.5, 43.75)),
        ((16, 16), (2, 1, 6, 7)),
    ],
)
def test_boxes_are_in_pixels_of_the_image(size, box):
    detector = detector_of([(8, 4, 24, 28)], [(0.0, 0.75)])
    answers = ask(detector, [encode(Image.new("RGB", size))])
    assert set(answers) == {"boxes", "classes", "scores", "num_detections", "errors"}
    np.testing.assert_allclose(answers["boxes"][0, 0], box, rtol=1e-6)
    assert answers["classes"][0, 0] == b"disc"
    assert answers["scores"][0, 0] == 0.75
    assert answers["num_detections"].tolist() == [1]
    assert answers["errors"].tolist() == [b""]
    assert answers["boxes"].shape == (1, MAX_BOXES, 4)
    for name in ("boxes", "classes", "scores"):
        assert not answers[name][0, 1:].astype(bool).any()


def test_boxes_are_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned.
    photograph = encode(Image.new("RGB", (200, 100)), "JPEG", exif=exif)
    answers = ask(detector_of([(8, 4, 24, 28)], [(0.0, 0.75)]), [photograph])
    box = np.array((8, 4, 24, 28)) * 200 / 64
    np.testing.assert_allclose(answers["boxes"][0, 0], box, rtol=1e-6)


def test_boxes_end_where_the_image_ends():
    boxes = [(-5, 20, 70, 60), (0, 33, 64, 64), (40, 8, 80, 16)]
    detector = detector_of(boxes, [(0.9, 0), (0.8, 0), (0.7, 0)])
    # The image is in the upper half, so the second box is in the padding.
    answers = ask(detector, [encode(Image.new("RGB", (200, 100)))])
    expected = [(0, 62.5, 200, 100), (125, 25, 200, 50)]
    assert answers["num_detections"].tolist() == [2]
    np.testing.assert_allclose(answers["boxes"][0, :2], expected, rtol=1e-6)
    np.testing.assert_allclose(answers["scores"][0, :2], [0.9, 0.7])


def test_overlapping_boxes_of_a_class_and_low_scores_are_left_out():
    boxes = [(0, 0, 20, 20), (0, 0, 20, 19), (0, 10, 20, 30), (40, 40, 60, 60)]
    scores = [(0.5, 0.05), (0.6, 0.3), (0.4, 0.0), (0.1, 0.2)]
    answers = ask(detector_of(boxes, scores), [encode(Image.new("RGB", (64, 64)))])
    number = answers["num_detections"][0]
    found = zip(answers["classes"][0], answers["scores"][0].round(2), strict=True)
    assert list(found)[:number] == [
        (b"box", np.float32(0.6)),
        (b"box", np.float32(0.4)),
        (b"disc", np.float32(0.3)),
        (b"disc", np.float32(0.2)),
    ]


def test_an_image_has_the_same_answer_alone_and_in_a_batch():
    detector = Detector(random_network(), (64, 64), CLASSES, THRESHOLDS)
    image, _ = draw(0)
    sizes = [(56, 40), (30, 90), (200, 150), (5, 7), (1, 33)]
    encoded = [encode(image.resize(size)) for size in sizes]
    together = ask(detector, encoded)
    assert len(set(together["num_detections"])) > 1
    for i, each in enumerate(encoded):
        for name, alone in ask(detector, [each]).items():
            np.testing.assert_array_equal(alone[0], together[name][i])


def test_bad_images_get_an_error_and_no_boxes():
    detector = detector_of([(8, 4, 24, 28)], [(0.0, 0.75)])
    answers = ask(detector, [b"no image", encode(Image.new("RGB", (64, 64)))])
    assert answers["num_detections"].tolist() == [0, 1]
    assert answers["classes"][0].tolist() == [b""] * MAX_BOXES
    assert not answers["boxes"][0].any()
    assert b"is no JPEG" in answers["errors"][0]


def test_tensors_are_answered_in_their_own_pixels():
    detector = detector_of([(8, 4, 24, 90)], [(0.0, 0.75)])
    bad = PIXELS.copy()
    bad[0, 0, 0] = np.nan
    answers = ask(detector, bad, "tensors")
    assert answers["num_detections"].tolist() == [0, 1]
    np.testing.assert_allclose(answers["boxes"][1, 0], (8, 4, 24, 64))
    assert answers["errors"].tolist() == [b"the pixels must be from 0 to 255", b""]


@pytest.mark.parametrize("model", ["one_stage", "faster_rcnn"])
def test_a_run_in_mixed_precision_answers_in_float32(tmp_path, model):
    with runs.dtype_policy("mixed_bfloat16"):
        trained = random_network(model)
    config = small(
        "", precision="mixed_bfloat16", model=model, filters=16, num_bins=8, iou=0.3
    )
    write_run(tmp_path, config, trained)
    detector = load_run(tmp_path)
    assert (detector.image_size, detector.classes) == ((64, 64), CLASSES)
    assert (detector.iou, detector.min_score) == (0.3, 0.01)
    pyramids = [each.get_layer("pyramid") for each in (trained, detector.network)]
    assert [each.compute_dtype for each in pyramids] == ["bfloat16", "float32"]
    for value, other in zip(
        detector.network.get_weights(), trained.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(value, other)


def test_the_confidence_comes_from_a_run_or_a_card(tmp_path):
    run, models = tmp_path / "run", tmp_path / "models"
    for folder in (run, models / "1/assets.extra", models / "edge"):
        folder.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert read_confidence(str(run)) == 0.5
    (run / "confidence.json").write_text('{"confidence": 0.3}')
    (models / "1/assets.extra/card.json").write_text('{"confidence": 0.35}')
    (models / "card.json").write_text('{"confidence": 0.4}')
    (models / "edge/model.tflite").touch()
    assert read_confidence(str(run)) == 0.3
    assert read_confidence(str(models / "1")) == 0.35
    assert read_confidence(str(models / "edge")) == 0.4
    assert read_confidence(str(models / "edge/model.tflite")) == 0.4
    assert read_confidence(str(tmp_path)) == 0.5
