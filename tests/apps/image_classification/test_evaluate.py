import numpy as np
import pytest

from apps.common.classification import Scores
from apps.image_classification.data import Examples
from apps.image_classification.evaluate import score, summarize

NAMES = ["ant", "bee", "cat"]
LABELS = np.array([0, 0, 1, 2])


def predictor(encoded_images):
    """Scores come best first, and the third image is taken for an ant."""
    answers = {
        b"0": ([b"ant", b"bee", b"cat"], [0.7, 0.2, 0.1]),
        b"1": ([b"ant", b"cat", b"bee"], [0.6, 0.3, 0.1]),
        b"2": ([b"ant", b"bee", b"cat"], [0.5, 0.4, 0.1]),
        b"3": ([b"cat", b"bee", b"ant"], [0.8, 0.1, 0.1]),
    }
    chosen = [answers[each] for each in encoded_images]
    return {
        "classes": np.array([names for names, _ in chosen], object),
        "scores": np.array([scores for _, scores in chosen]),
    }


@pytest.fixture
def examples():
    return Examples(["image"] * 4, LABELS, [b"0", b"1", b"2", b"3"])


def test_metrics(examples):
    report = summarize(score(predictor, examples, NAMES))
    assert report["accuracy"] == 3 / 4
    assert report["examples"] == 4
    assert "top_5_accuracy" not in report  # With three classes it says nothing.
    ant, bee = report["classes"]["ant"], report["classes"]["bee"]
    assert (ant["precision"], ant["recall"]) == (2 / 3, 1)
    assert (bee["precision"], bee["recall"], bee["examples"]) == (0, 0, 1)


def test_images_are_asked_about_in_their_order(examples):
    result = score(predictor, examples, NAMES)
    assert result.predictions.tolist() == [0, 0, 0, 2]
    assert result.labels.tolist() == [0, 0, 1, 2]


def test_with_many_classes_the_best_five_count_too():
    scores = np.tile(np.arange(12) / 66, (4, 1))
    result = Scores([f"{i:02}" for i in range(12)], scores, [11, 7, 6, 0], seconds=1.0)
    assert summarize(result)["top_5_accuracy"] == 2 / 4
