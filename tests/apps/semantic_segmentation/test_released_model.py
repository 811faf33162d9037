"""The released model on CamVid; the contract checks the files and their names."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from apps.common import datasets, lite
from apps.common.predictors import in_batches
from apps.semantic_segmentation.config import camvid
from apps.semantic_segmentation.data import decode_mask, load_split
from apps.semantic_segmentation.evaluate import score
from apps.semantic_segmentation.signatures import load_model
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/semantic_segmentation"


def test_the_crf_helps_and_a_good_variant_is_in_the_bundle():
    card = json.loads((RELEASED / "card.json").read_text())
    engines = {row["engine"]: row for row in card["engines"]}
    plain, refined = engines["SavedModel"], engines["SavedModel with CRF"]
    assert refined["mean_iou"] >= plain["mean_iou"]
    assert refined["boundary_score"] > plain["boundary_score"]
    variants = set(engines) & set(lite.VARIANTS)
    best = max(engines[variant]["mean_iou"] for variant in variants)
    assert best >= plain["mean_iou"] - 0.01


@pytest.fixture(scope="module")
def test_images():
    if not (ROOT / "data/camvid").exists():
        pytest.skip("needs data/camvid")
    config = dataclasses.replace(camvid(), data=str(ROOT / "data/camvid"))
    return datasets.evenly(load_split(config, "test"), 10)


@pytest.mark.slow
def test_it_answers_alike_wherever_it_is_served(test_images):
    encoded = [test_images.image_bytes(i) for i in range(2)]

    def masks(where, signature):
        answers = in_batches(load_model(str(where), signature), encoded)
        return np.array([decode_mask(each) for each in answers["mask_bytes"]])

    with serve("semantic_segmentation", RELEASED / "1") as addresses:
        for signature in ("serving_default", "with_crf"):
            expected = masks(RELEASED / "1", signature)
            for address in addresses:
                assert (masks(address, signature) == expected).mean() > 0.999


@pytest.mark.slow
def test_on_a_device_it_scores_as_served(test_images):
    served, device = (
        score(load_model(str(RELEASED / where)), test_images).agreement.summary()
        for where in ("1", "edge")
    )
    assert served["mean_iou"] > 0.55
    assert device["mean_iou"] == pytest.approx(served["mean_iou"], abs=0.03)
