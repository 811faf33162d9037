"""The model in `saved_models` is what its card says."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apps.common import saved_models
from apps.common.predictors import in_batches, load_predictor
from apps.sentiment_analysis.config import tweets
from apps.sentiment_analysis.data import load_split
from apps.sentiment_analysis.evaluate import score
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/sentiment_analysis"
TWEETS = ROOT / tweets().data

pytestmark = pytest.mark.skipif(
    not (RELEASED / "card.json").exists(),
    reason="needs saved_models/sentiment_analysis",
)
needs_tweets = pytest.mark.skipif(
    not TWEETS.exists(), reason="needs data/tweeteval_sentiment"
)


@pytest.fixture(scope="module")
def card():
    return json.loads((RELEASED / "card.json").read_text())


@pytest.fixture(scope="module")
def engines(card):
    return {row["engine"]: row for row in card["engines"]}


def test_it_is_small():
    assert saved_models.size_mb(RELEASED) <= 15


def test_its_card_keeps_the_promises(card, engines):
    assert card["classes"] == ["negative", "neutral", "positive"]
    assert {"trained model", "SavedModel"} < set(engines)
    for row in engines.values():
        assert row["macro_recall"] >= 0.55
        assert row["accuracy"] >= 0.55
        assert 0 <= row["expected_calibration_error"] <= 0.2
        assert row["size_MB"] > 0
        assert row["latency_ms"] > 0
    assert engines["SavedModel"]["score_difference"] <= 1e-4
    assert max(row["same_classes"] for row in engines.values()) == 1
    assert (RELEASED / "card.md").exists()


@pytest.fixture(scope="module")
def examples():
    config = dataclasses.replace(tweets(), data=str(TWEETS))
    examples, class_names = load_split(config, "test")
    assert class_names == ["negative", "neutral", "positive"]
    return examples


def first_classes(where, texts):
    answers = in_batches(load_predictor(str(where), load_run=None), texts)
    return answers["classes"][:, 0].astype(bytes)


@needs_tweets
def test_it_finds_every_class_of_the_first_tweets(examples):
    predictor = load_predictor(str(RELEASED / "1"), load_run=None)
    some = examples[np.arange(300)]
    result = score(predictor, some, ["negative", "neutral", "positive"])
    assert result.macro_recall >= 0.55


@needs_tweets
def test_served_and_on_a_device_it_answers_alike(examples):
    texts = examples.texts[:300]
    expected = first_classes(RELEASED / "1", texts)
    assert np.mean(first_classes(RELEASED / "edge", texts) == expected) >= 0.99
    with serve("sentiment_analysis", RELEASED / "1") as addresses:
        for address in addresses:
            np.testing.assert_array_equal(first_classes(address, texts), expected)


def test_its_bundle_starts_without_tensorflow(tmp_path):
    bundle, python = make_device(RELEASED / "edge", tmp_path)
    done = subprocess.run(
        [python, bundle / "run.py", "what a lovely day 😀", "this is horrible"],
        capture_output=True,
        text=True,
        check=True,
    )
    best = [line.split()[0] for line in done.stdout.splitlines()]
    assert best == ["positive", "negative"]
