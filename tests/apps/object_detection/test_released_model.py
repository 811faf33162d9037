"""The released model on blood cells; the contract checks the files and their names."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from apps.common import datasets, lite
from apps.common.predictors import in_batches
from apps.object_detection.config import bccd
from apps.object_detection.data import load_split
from apps.object_detection.evaluate import score
from apps.object_detection.metrics import changed_boxes, summarize
from apps.object_detection.signatures import load_model
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/object_detection"


def test_it_beats_its_baseline_and_the_bundle_is_as_good():
    card = json.loads((RELEASED / "card.json").read_text())
    engines = {row["engine"]: row for row in card["engines"]}
    assert engines["SavedModel"]["map"] > card["baseline"]["test"]["map"] + 0.2
    variants = set(engines) & set(lite.VARIANTS)
    assert "int8" in variants
    for variant in variants:
        assert engines[variant]["ap50"] >= engines["SavedModel"]["ap50"] - 0.02


@pytest.fixture(scope="module")
def test_images():
    if not (ROOT / "data/bccd").exists():
        pytest.skip("needs data/bccd")
    config = dataclasses.replace(bccd(), data=str(ROOT / "data/bccd"))
    return datasets.evenly(load_split(config, "test"), 16)


@pytest.mark.slow
def test_it_answers_alike_wherever_it_is_served(test_images):
    encoded = [test_images.image_bytes(i) for i in range(2)]
    expected = in_batches(load_model(str(RELEASED / "1")), encoded)
    with serve("object_detection", RELEASED / "1") as addresses:
        for address in addresses:
            answers = in_batches(load_model(address), encoded)
            for name, value in expected.items():
                np.testing.assert_array_equal(answers[name], value)


@pytest.mark.slow
def test_on_a_device_it_scores_as_served(test_images):
    scores = [
        score(load_model(str(RELEASED / where)), test_images) for where in ("1", "edge")
    ]
    served, device = (summarize(each.evaluation)["ap50"] for each in scores)
    assert served > 0.85
    assert device == pytest.approx(served, abs=0.03)
    answers = [each.answers for each in scores]
    assert changed_boxes(*answers, test_images.classes) < 0.1
