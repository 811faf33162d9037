import json

import numpy as np
import pytest

from apps.semantic_segmentation.data import Examples, png
from apps.semantic_segmentation.evaluate import score, summarize

CLASSES = ("ant #ff0000", "bee", "cat")
MASKS = [
    np.array([[0, 0, 1, 1]] * 4, "uint8"),
    np.array([[0, 0, 0, 255]] * 4, "uint8"),
]
ANSWERS = [
    np.array([[0, 0, 0, 1]] * 4, "uint8"),
    np.array([[0, 0, 0, 1]] * 4, "uint8"),
]


def predictor(encoded_images):
    """Takes a quarter of the first image, half of its bees, for ants."""
    masks = [ANSWERS[int(each)] for each in encoded_images]
    number = len(masks)
    return {
        "mask_bytes": np.array([png(mask) for mask in masks], object),
        "classes": np.array([[b"ant", b"bee", b""]] * number, object),
        "shares": np.array([[0.75, 0.25, 0]] * number),
    }


def perfect(encoded_images):
    masks = [np.where(MASKS[int(i)] == 255, 0, MASKS[int(i)]) for i in encoded_images]
    return {
        **predictor(encoded_images),
        "mask_bytes": np.array([png(mask) for mask in masks], object),
    }


@pytest.fixture
def examples():
    return Examples(["a", "b"], [b"0", b"1"], [png(mask) for mask in MASKS])


def test_metrics(examples):
    result = score(predictor, examples, CLASSES)
    np.testing.assert_allclose(result.image_iou, [(2 / 3 + 1 / 2) / 2, 1])
    report = summarize([result], CLASSES)
    assert report["examples"] == 2
    assert report["pixel_accuracy"] == pytest.approx(24 / 28)
    assert report["mean_iou"] == pytest.approx((20 / 24 + 4 / 8) / 2, abs=1e-5)
    assert list(report["classes"]) == ["ant", "bee", "cat"]
    assert report["classes"]["ant"] == pytest.approx({"iou": 20 / 24, "share": 20 / 28})
    assert report["classes"]["cat"] == {"iou": None, "share": 0}
    assert "mean_iou_crf" not in report


def test_refined_masks_are_reported_beside_the_plain_ones(examples):
    plain = score(predictor, examples, CLASSES)
    report = summarize([plain, score(perfect, examples, CLASSES)], CLASSES)
    assert report["mean_iou"] < report["mean_iou_crf"] == pytest.approx(1, abs=1e-5)
    assert report["boundary_score_crf"] == pytest.approx(1, abs=1e-5)
    assert report["classes"]["bee"]["iou"] == 1 / 2
    assert report["classes"]["bee"]["iou_crf"] == 1
    assert report["classes"]["cat"]["iou_crf"] is None
    assert json.loads(json.dumps(report, allow_nan=False)) == report
