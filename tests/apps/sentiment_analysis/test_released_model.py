"""The released model on tweets; the contract checks the files and their names."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apps.common import datasets
from apps.common.predictors import in_batches
from apps.sentiment_analysis.config import tweets
from apps.sentiment_analysis.data import load_split
from apps.sentiment_analysis.evaluate import score
from apps.sentiment_analysis.signatures import load_model
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/sentiment_analysis"
TWEETS = ROOT / tweets().data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def test_tweets():
    if not TWEETS.exists():
        pytest.skip("needs data/tweeteval_sentiment")
    return load_split(dataclasses.replace(tweets(), data=str(TWEETS)), "test")


@pytest.mark.parametrize(("where", "engine"), [("1", "SavedModel"), ("edge", None)])
def test_it_scores_what_its_card_says(where, engine, test_tweets):
    card = json.loads((RELEASED / "card.json").read_text())
    rows = {row["engine"]: row for row in card["engines"]}
    result = score(load_model(str(RELEASED / where)), test_tweets)
    # The recommended variant is the last.
    expected = rows[engine or card["engines"][-1]["engine"]]["macro_recall"]
    assert len(test_tweets) == 12284
    assert result.macro_recall == pytest.approx(expected, abs=0.002)


def first_classes(where, texts):
    answers = in_batches(load_model(str(where)), texts)
    return answers["classes"][:, 0].astype(bytes)


def test_served_and_on_a_device_it_answers_alike(test_tweets):
    texts = datasets.evenly(test_tweets, 300).texts
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
