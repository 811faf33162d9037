"""The released model on Flickr8k; the contract checks the files and their names."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apps.common import datasets, lite
from apps.image_captioning import metrics
from apps.image_captioning.config import flickr8k
from apps.image_captioning.data import load_split
from apps.image_captioning.evaluate import score
from apps.image_captioning.signatures import load_model
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/image_captioning"
FLICKR8K = ROOT / flickr8k().data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def card():
    return json.loads((RELEASED / "card.json").read_text())


@pytest.fixture(scope="module")
def examples():
    """The 1,000 images that the card's scores are of."""
    if not FLICKR8K.exists():
        pytest.skip("needs data/flickr8k")
    return load_split(dataclasses.replace(flickr8k(), data=str(FLICKR8K)), "test")


@pytest.fixture(scope="module")
def served(examples):
    return score(load_model(str(RELEASED / "1")), examples).captions


def test_it_captions_as_well_as_its_card_says(card, examples, served):
    (row,) = [row for row in card["engines"] if row["engine"] == "SavedModel"]
    scores = metrics.score(served, examples.captions)
    assert len(examples) == 1000
    # Another processor may round differently, which can change a few captions.
    for name in ("bleu_4", "cider"):
        assert scores[name] == pytest.approx(row[name], abs=0.005)


def test_its_engines_caption_alike(card):
    rows = {row["engine"]: row for row in card["engines"]}
    assert set(rows) == {"trained model", "SavedModel", "float16"}
    assert all(row["changed_captions"] <= 0.03 for row in rows.values())


def test_it_beats_its_baseline(card):
    (row,) = [row for row in card["engines"] if row["engine"] == "SavedModel"]
    baseline = card["baseline"]["test"]
    assert row["bleu_4"] > baseline["bleu_4"] + 0.02
    assert row["cider"] > baseline["cider"] + 0.1


def test_its_captions_vary(examples, served):
    found = metrics.variety(served, [])
    assert found["distinct"] > 0.7
    assert 7 < found["words"] < 13
    words = {word for caption in served for word in caption.split()}
    assert len(words) > 200


def test_the_preset_is_that_of_the_release(card):
    given = {"seed": 2, "weights": "weights"}  # By the README's command.
    config = json.loads(json.dumps(dataclasses.asdict(flickr8k()) | given))
    assert {name: config[name] for name in card["config"]} == card["config"]


def test_served_and_on_a_device_it_captions_alike(examples, served):
    some = datasets.evenly(examples, 40)
    expected = dict(zip(examples.names, served, strict=True))
    expected = np.array([expected[name] for name in some.names])

    def same(where):
        return np.mean(expected == score(load_model(str(where)), some).captions)

    assert same(RELEASED / "edge") >= 0.97
    with serve("image_captioning", RELEASED / "1") as addresses:
        for address in addresses:
            assert same(address) >= 0.97


def test_it_needs_no_loop_on_a_device():
    operations = lite.operations((RELEASED / "edge/model.tflite").read_bytes())
    assert "DEPTHWISE_CONV_2D" in operations
    assert "WHILE" not in operations


def test_its_bundle_starts_without_tensorflow(examples, tmp_path):
    bundle, python = make_device(RELEASED / "edge", tmp_path)
    path = examples.images[0]
    done = subprocess.run(
        [python, bundle / "run.py", path], capture_output=True, text=True, check=True
    )
    answers = load_model(str(RELEASED / "edge"))([path.read_bytes()])
    name, caption = done.stdout.strip().split("\t")
    assert (name, caption) == (str(path), answers["captions"][0].decode())
    assert len(caption.split()) >= 4
