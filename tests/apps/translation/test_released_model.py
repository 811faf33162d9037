"""The model in `saved_models` is what its card says."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apps.common import saved_models
from apps.common.predictors import load_predictor
from apps.translation import metrics
from apps.translation.config import multi30k_en_de
from apps.translation.data import load_split
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/translation"
MULTI30K = ROOT / multi30k_en_de().data

pytestmark = pytest.mark.skipif(
    not (RELEASED / "card.json").exists(), reason="needs saved_models/translation"
)
needs_multi30k = pytest.mark.skipif(not MULTI30K.exists(), reason="needs data/multi30k")


@pytest.fixture(scope="module")
def card():
    return json.loads((RELEASED / "card.json").read_text())


@pytest.fixture(scope="module")
def engines(card):
    return {row["engine"]: row for row in card["engines"]}


def test_it_is_small():
    assert saved_models.size_mb(RELEASED) <= 60


def test_its_card_keeps_the_promises(engines):
    assert {"trained model", "SavedModel"} < set(engines)
    for row in engines.values():
        assert row["bleu"] >= 30
        assert row["bleu_lowercased_tokenized"] >= 30
        assert row["chrf"] >= 50
        assert row["size_MB"] > 0
        assert row["latency_ms"] > 0
    assert engines["trained model"]["same_translations"] == 1
    assert engines["SavedModel"]["changed_translations"] <= 0.02
    assert (RELEASED / "card.md").exists()


@pytest.fixture(scope="module")
def pairs(card):
    names = ("source_column", "target_column")
    columns = {name: card["config"][name] for name in names}
    config = dataclasses.replace(multi30k_en_de(), data=str(MULTI30K), **columns)
    return load_split(config, "test")[range(100)]


@pytest.fixture(scope="module")
def served(pairs):
    predictor = load_predictor(str(RELEASED / "1"), load_run=None)
    return metrics.translate(predictor, pairs.sources)


@needs_multi30k
def test_it_translates_as_well_as_its_card_says(card, engines, pairs, served):
    language = card["config"]["target_column"]
    scores = metrics.score(served, pairs.targets, language)
    # A tenth of the test sentences.
    for name in ("bleu", "bleu_lowercased_tokenized", "chrf"):
        assert scores[name] == pytest.approx(engines["SavedModel"][name], abs=8)


@needs_multi30k
def test_served_and_on_a_device_it_translates_alike(pairs, served):
    def same(where, number):
        predictor = load_predictor(str(where), load_run=None)
        found = metrics.translate(predictor, pairs.sources[:number])
        return np.mean([a == b for a, b in zip(found, served, strict=False)])

    assert same(RELEASED / "edge", 100) >= 0.98
    with serve("translation", RELEASED / "1") as addresses:
        for address in addresses:
            assert same(address, 100) >= 0.98


def test_its_bundle_starts_without_tensorflow(card, tmp_path):
    text = {
        "en": "A man is sleeping on a couch.",
        "de": "Ein Mann schläft auf einem Sofa.",
        "fr": "Un homme dort sur un canapé.",
    }[card["config"]["source_column"]]
    bundle, python = make_device(RELEASED / "edge", tmp_path)
    done = subprocess.run(
        [python, bundle / "run.py", text], capture_output=True, text=True, check=True
    )
    answers = load_predictor(str(RELEASED / "1"), load_run=None)([text])
    assert done.stdout.strip() == answers["translations"][0].decode()
    assert len(done.stdout.split()) >= 4
