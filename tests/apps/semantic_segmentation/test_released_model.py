"""The model in `saved_models` is what its card says."""

import json
from pathlib import Path

import numpy as np
import pytest

from apps.common import saved_models
from apps.common.predictors import in_batches, training_config
from apps.semantic_segmentation.config import Config
from apps.semantic_segmentation.data import decode_mask, load_split
from apps.semantic_segmentation.evaluate import score
from apps.semantic_segmentation.model import load_model
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/semantic_segmentation"
CARD = json.loads((RELEASED / "card.json").read_text())
ENGINES = {row["engine"]: row for row in CARD["engines"]}


def test_it_is_small():
    assert saved_models.size_mb(RELEASED) <= 15


def test_its_card_keeps_the_promises():
    plain, refined = ENGINES["SavedModel"], ENGINES["SavedModel with CRF"]
    assert plain["mean_iou"] >= 0.64
    assert refined["mean_iou"] >= plain["mean_iou"]
    assert refined["boundary_score"] > plain["boundary_score"]
    # What lost more would not be in the bundle.
    variants = set(ENGINES) & set(saved_models.VARIANTS)
    best = max(ENGINES[variant]["mean_iou"] for variant in variants)
    assert best >= plain["mean_iou"] - 0.01


@pytest.fixture
def some_test_images(monkeypatch):
    if not (ROOT / "data/camvid").exists():
        pytest.skip("needs data/camvid")
    monkeypatch.chdir(ROOT)
    config = training_config(Config, RELEASED / "1")
    examples, classes = load_split(config, "test")
    return examples[range(0, len(examples), 23)], classes


@pytest.mark.parametrize("signature", ["serving_default", "with_crf"])
def test_it_answers_alike_wherever_it_is_served(some_test_images, signature):
    examples, _ = some_test_images
    encoded = [examples.image_bytes(i) for i in range(3)]

    def masks(where):
        answers = in_batches(load_model(str(where), signature), encoded)
        return np.array([decode_mask(each) for each in answers["mask_bytes"]])

    expected = masks(RELEASED / "1")
    with serve("semantic_segmentation", RELEASED / "1") as addresses:
        for address in addresses:
            assert (masks(address) == expected).mean() > 0.999


def test_on_a_device_it_scores_as_served(some_test_images):
    scores = {
        where: score(load_model(str(RELEASED / where)), *some_test_images)
        for where in ("1", "edge")
    }
    served, device = (each.agreement.summary() for each in scores.values())
    assert served["mean_iou"] > 0.55
    assert device["mean_iou"] == pytest.approx(served["mean_iou"], abs=0.03)
