import json

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.common.images import encode_png
from apps.semantic_segmentation.data import Examples
from apps.semantic_segmentation.evaluate import score, summarize

CLASSES = ("ant #ff0000", "bee", "cat")
MASKS = [
    np.array([[0, 0, 1, 1]] * 4, "uint8"),
    np.array([[0, 0, 0, 255]] * 4, "uint8"),
]
PREDICTIONS = [
    np.array([[0, 0, 0, 1]] * 4, "uint8"),
    np.array([[0, 0, 0, 1]] * 4, "uint8"),
]


def answer(masks, names=(b"ant", b"bee", b"")):
    return {
        "mask_bytes": np.array([encode_png(mask) for mask in masks], object),
        "classes": np.array([names] * len(masks), object),
    }


def predictor(encoded_images):
    """Takes half of the bees in the first image for ants."""
    return answer([PREDICTIONS[int(i)] for i in encoded_images])


def perfect(encoded_images):
    masks = [MASKS[int(i)] for i in encoded_images]
    return answer([np.where(mask == 255, 0, mask) for mask in masks])


@pytest.fixture
def examples():
    masks = [encode_png(mask) for mask in MASKS]
    return Examples(["a", "b"], [b"0", b"1"], masks, CLASSES)


def test_metrics(examples):
    scores = score(predictor, examples)
    np.testing.assert_allclose(scores.image_iou, [(2 / 3 + 1 / 2) / 2, 1])
    report = summarize([scores], CLASSES)
    assert report["examples"] == 2
    assert report["pixel_accuracy"] == pytest.approx(24 / 28)
    assert report["mean_iou"] == pytest.approx((20 / 24 + 4 / 8) / 2)
    assert list(report["classes"]) == ["ant", "bee", "cat"]
    ant = {"iou": 20 / 24, "pixel_fraction": 20 / 28}
    assert report["classes"]["ant"] == pytest.approx(ant)
    assert report["classes"]["cat"] == {"iou": None, "pixel_fraction": 0}
    assert "mean_iou_crf" not in report


def test_scores_with_the_crf_are_reported_beside_the_others(examples):
    plain = score(predictor, examples)
    report = summarize([plain, score(perfect, examples)], CLASSES)
    assert report["mean_iou"] < report["mean_iou_crf"] == 1
    assert report["boundary_score_crf"] == 1
    assert report["classes"]["bee"]["iou"] == 1 / 2
    assert report["classes"]["bee"]["iou_crf"] == 1
    assert report["classes"]["cat"]["iou_crf"] is None
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ((b"ant", b"bee", b"", b""), "the model knows 4"),
        ((b"ant", b"wasp", b""), "the model knows others"),
    ],
)
def test_a_model_of_other_classes_is_refused(examples, names, problem):
    message = f"the data has the 3 classes ant, bee, cat, but {problem}; evaluate on"
    with pytest.raises(BadInput, match=message):
        score(lambda images: answer([MASKS[0]] * len(images), names), examples)
