"""The released model on Multi30K; the contract checks the files and their names."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apps.common import datasets
from apps.translation import metrics
from apps.translation.config import multi30k_en_de
from apps.translation.data import load_split
from apps.translation.signatures import load_model
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/translation"
MULTI30K = ROOT / multi30k_en_de().data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def card():
    return json.loads((RELEASED / "card.json").read_text())


@pytest.fixture(scope="module")
def examples():
    """The 1,000 sentences that the card's scores are of."""
    if not MULTI30K.exists():
        pytest.skip("needs data/multi30k")
    return load_split(dataclasses.replace(multi30k_en_de(), data=str(MULTI30K)), "test")


@pytest.fixture(scope="module")
def served(examples):
    return metrics.translate(load_model(str(RELEASED / "1")), examples.sources)


def test_it_translates_as_well_as_its_card_says(card, examples, served):
    (row,) = [row for row in card["engines"] if row["engine"] == "SavedModel"]
    scores = metrics.score(served, examples.targets, card["config"]["target_column"])
    assert len(examples) == 1000
    # Another processor may round differently, which can change a few sentences.
    for name in ("bleu", "bleu_lowercased_tokenized", "chrf"):
        assert scores[name] == pytest.approx(row[name], abs=0.2)


def test_served_and_on_a_device_it_translates_alike(examples, served):
    texts = datasets.evenly(examples, 40).sources
    expected = dict(zip(examples.sources, served, strict=True))

    def same(where):
        found = metrics.translate(load_model(str(where)), texts)
        return np.mean([expected[a] == b for a, b in zip(texts, found, strict=True)])

    assert same(RELEASED / "edge") >= 0.95
    with serve("translation", RELEASED / "1") as addresses:
        for address in addresses:
            assert same(address) >= 0.95


def test_its_bundle_starts_without_tensorflow(tmp_path):
    text = "A man is sleeping on a couch."
    bundle, python = make_device(RELEASED / "edge", tmp_path)
    done = subprocess.run(
        [python, bundle / "run.py", text], capture_output=True, text=True, check=True
    )
    answers = load_model(str(RELEASED / "1"))([text])
    assert done.stdout.strip() == answers["translations"][0].decode()
    assert len(done.stdout.split()) >= 4
