"""The model in `saved_models` is what its card says."""

import json
from pathlib import Path

import numpy as np
import pytest

from apps.common import saved_models
from apps.common.predictors import in_batches, load_predictor
from apps.image_classification.data import load_split
from apps.image_classification.evaluate import score
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/image_classification"
FLOWERS = ROOT / "data/flowers"
CARD = json.loads((RELEASED / "card.json").read_text())
ENGINES = {row["engine"]: row for row in CARD["engines"]}


def test_it_is_small():
    assert saved_models.size_mb(RELEASED) <= 15


def test_its_card_keeps_the_promises():
    assert ENGINES["SavedModel"]["accuracy"] >= 0.92
    assert ENGINES["int8"]["accuracy"] >= ENGINES["SavedModel"]["accuracy"] - 0.01
    assert ENGINES["int8"]["size_MB"] <= 3


needs_flowers = pytest.mark.skipif(not FLOWERS.exists(), reason="needs data/flowers")


@needs_flowers
def test_served_and_on_a_device_it_answers_alike():
    examples, _ = load_split(str(FLOWERS), "test", 0.1, 0)
    encoded = [examples.image_bytes(i) for i in range(0, len(examples), 7)][:100]
    assert len(encoded) == 100

    def by_name(where):
        answers = in_batches(load_predictor(str(where), load_run=None), encoded)
        order = answers["classes"].astype(bytes).argsort(axis=1)
        return np.take_along_axis(answers["scores"], order, axis=1)

    expected = by_name(RELEASED / "1")
    with serve("image_classification", RELEASED / "1") as (rest, grpc):
        for where in (RELEASED / "edge/float32.tflite", rest, grpc):
            np.testing.assert_allclose(by_name(where), expected, atol=1e-3)


@needs_flowers
@pytest.mark.parametrize(("where", "engine"), [("1", "SavedModel"), ("edge", "int8")])
def test_it_scores_what_its_card_says(where, engine):
    examples, class_names = load_split(str(FLOWERS), "test", 0.1, 0)
    predictor = load_predictor(str(RELEASED / where), load_run=None)
    result = score(predictor, examples, class_names)
    assert len(examples) == 736
    # Another processor may round otherwise, which can turn an image or two.
    assert result.accuracy == pytest.approx(ENGINES[engine]["accuracy"], abs=0.003)
