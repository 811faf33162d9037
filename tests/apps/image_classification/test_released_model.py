"""The released model on the flowers; the contract checks the files and their names."""

import json
from pathlib import Path

import numpy as np
import pytest

from apps.common import datasets
from apps.common.predictors import in_batches
from apps.image_classification.config import Config
from apps.image_classification.data import load_split
from apps.image_classification.evaluate import score
from apps.image_classification.signatures import load_model
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/image_classification"
FLOWERS = ROOT / "data/flowers"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FLOWERS.exists(), reason="needs data/flowers"),
]


@pytest.fixture(scope="module")
def flowers():
    """The images that the card's scores are of."""
    return load_split(Config(str(FLOWERS / "val")), "test", is_other_data=True)


def test_served_it_answers_alike(flowers):
    some = datasets.evenly(flowers, 40)
    encoded = [some.image_bytes(i) for i in range(len(some))]

    def by_name(where):
        answers = in_batches(load_model(str(where)), encoded)
        order = answers["classes"].astype(bytes).argsort(axis=1)
        return np.take_along_axis(answers["scores"], order, axis=1)

    expected = by_name(RELEASED / "1")
    with serve("image_classification", RELEASED / "1") as (rest, grpc):
        for where in (rest, grpc):
            np.testing.assert_allclose(by_name(where), expected, atol=1e-3)


@pytest.mark.parametrize(("where", "engine"), [("1", "SavedModel"), ("edge", "int8")])
def test_it_scores_what_its_card_says(where, engine, flowers):
    card = json.loads((RELEASED / "card.json").read_text())
    (row,) = [row for row in card["engines"] if row["engine"] == engine]
    result = score(load_model(str(RELEASED / where)), flowers)
    assert len(flowers) == 736
    # Another processor may round differently, which can turn an image or two.
    assert result.accuracy == pytest.approx(row["accuracy"], abs=0.003)
