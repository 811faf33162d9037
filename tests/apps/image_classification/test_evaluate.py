import numpy as np
import pytest

from apps.common.classification import Scores
from apps.image_classification.data import Examples
from apps.image_classification.evaluate import score, summarize

NAMES = ("ant", "bee", "cat")


def predictor(encoded_images):
    """Answers with the best class first; the third image is taken for an ant."""
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
def result():
    labels = np.array([0, 0, 1, 2])
    examples = Examples(["image"] * 4, [b"0", b"1", b"2", b"3"], labels, NAMES)
    return score(predictor, examples)


def test_metrics(result):
    report = summarize(result)
    assert report["accuracy"] == 3 / 4
    assert report["examples"] == 4
    assert list(report["classes"]) == list(NAMES)
    assert "top_5_accuracy" not in report  # With three classes it tells nothing.
    ant, bee = report["classes"]["ant"], report["classes"]["bee"]
    assert (ant["precision"], ant["recall"]) == (2 / 3, 1)
    assert (bee["precision"], bee["recall"], bee["examples"]) == (0, 0, 1)


def test_answers_are_in_the_order_of_the_images(result):
    assert result.predictions.tolist() == [0, 0, 0, 2]
    assert result.labels.tolist() == [0, 0, 1, 2]


def test_with_many_classes_top_5_accuracy_is_reported_too():
    scores = np.tile(np.arange(12) / 66, (4, 1))
    result = Scores([f"{i:02}" for i in range(12)], scores, [11, 7, 6, 0], seconds=1.0)
    assert summarize(result)["top_5_accuracy"] == 2 / 4
