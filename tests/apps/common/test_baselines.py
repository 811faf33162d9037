import json

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from apps.common import baselines

TEXTS = ["good film", "good day", "bad film", "bad day"]


@pytest.fixture
def record(tmp_path, capsys):
    """The record of a baseline that always answers the most frequent class."""
    inputs = np.zeros((3, 1))
    splits = {
        "train": (inputs, np.array([0, 0, 1])),
        "validation": (inputs, np.array([1, 1, 1])),
        "test": (inputs, np.array([1, 1, 0])),
    }
    record = baselines.measure(tmp_path, "mode", DummyClassifier(), splits)
    assert record == json.loads((tmp_path / "baseline.json").read_text())
    assert capsys.readouterr().out == (
        "baseline on validation: accuracy 0.0000, macro recall 0.0000 (mode)\n"
    )
    return record


def test_it_learns_from_all_examples_before_the_test(record):
    assert record["validation"] == {"accuracy": 0, "macro_recall": 0}
    # With the validation examples 1 is the most frequent class.
    assert record["test"]["accuracy"] == pytest.approx(2 / 3)
    assert record["test"]["macro_recall"] == pytest.approx(1 / 2)


def test_texts_may_be_lists(tmp_path):
    labels = np.array([1, 1, 0, 0])
    splits = dict.fromkeys(("train", "validation", "test"), (TEXTS, labels))
    record = baselines.measure(
        tmp_path, "words", baselines.of_texts(is_balanced=False), splits
    )
    assert record["test"]["accuracy"] == 1


def test_a_score_stands_beside_that_of_the_same_split(record, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    expected = {"name": "mode", **record["test"]}
    assert baselines.beside(str(tmp_path), "test", False) == expected
    assert baselines.beside(str(tmp_path), "train", False) is None
    assert baselines.beside(str(tmp_path), "test", True) is None
    assert baselines.beside("http://localhost:8501/v1/models/any", "test", True) is None


def test_a_card_repeats_the_record(record, tmp_path):
    version = tmp_path / "1"
    (version / "assets.extra").mkdir(parents=True)
    card = {"baseline": record}
    (version / "assets.extra/card.json").write_text(json.dumps(card))
    assert baselines.read(str(version)) == record


@pytest.mark.parametrize(("value", "is_below"), [(-0.1, True), (0, False)])
def test_a_model_below_its_baseline_is_told_so(record, capsys, value, is_below):
    baselines.print_verdict(record, "accuracy", value, "add images")
    printed = capsys.readouterr().out
    assert "validation accuracy" in printed
    assert "baseline 0.0000 (mode)" in printed
    assert ("worse than the baseline; add images" in printed) == is_below
