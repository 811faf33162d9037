import keras
import numpy as np
import pytest
from sklearn.metrics import recall_score

from apps.sentiment_analysis.metrics import (
    MacroRecall,
    expected_calibration_error,
    reliability,
)


def answers(number, seed=0, classes=3):
    """Returns random scores that sum to 1, and labels that often agree with them."""
    random = np.random.default_rng(seed)
    scores = random.dirichlet(np.ones(classes), number)
    guessed = random.random(number) < 0.4
    labels = np.where(guessed, random.integers(0, classes, number), scores.argmax(1))
    return scores, labels


def feed(metric, scores, labels, batch=7, weights=None):
    one_hot = np.eye(metric.num_classes)[labels]
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        metric.update_state(
            one_hot[part], scores[part], weights if weights is None else weights[part]
        )
    return float(metric.result())


def test_macro_recall_equals_scikit_learns():
    scores, labels = answers(100)
    labels[:60] = 0  # Imbalanced.
    expected = recall_score(labels, scores.argmax(1), average="macro")
    assert expected != pytest.approx(np.mean(labels == scores.argmax(1)), abs=0.02)
    metric = MacroRecall(3)
    assert feed(metric, scores, labels) == pytest.approx(expected)
    # Sample weights are ignored, and a new epoch starts from zero.
    metric.reset_state()
    weights = np.linspace(0, 5, 100)
    assert feed(metric, scores, labels, 33, weights) == pytest.approx(expected)


def test_classes_without_examples_do_not_count():
    scores, labels = answers(50, classes=4)
    labels = np.minimum(labels, 2)
    expected = recall_score(labels, scores.argmax(1), labels=[0, 1, 2], average="macro")
    assert feed(MacroRecall(4), scores, labels) == pytest.approx(expected)
    assert float(MacroRecall(4).result()) == 0.0


def test_macro_recall_survives_serialization():
    metric = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(MacroRecall(5, name="other"))
    )
    assert (metric.num_classes, metric.name) == (5, "other")
    assert MacroRecall(5).name == "macro_recall"


def plain_reliability(scores, labels, bins):
    rows = []
    for number in range(bins):
        inside = []
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            confidence = max(row)
            last = number == bins - 1 and confidence >= 1
            if number / bins <= confidence < (number + 1) / bins or last:
                inside.append((confidence, row.index(confidence) == label))
        if inside:
            confidences, hits = zip(*inside, strict=True)
            rows.append(
                (
                    sum(confidences) / len(inside),
                    sum(hits) / len(inside),
                    len(inside) / len(labels),
                )
            )
    return rows


@pytest.mark.parametrize("bins", [15, 4])
def test_calibration_equals_that_of_a_plain_loop(bins):
    scores, labels = answers(500)
    scores[0] = [0, 1, 0]
    curve = reliability(scores, labels, bins)
    expected = plain_reliability(scores, labels, bins)
    np.testing.assert_allclose(curve, expected)
    assert curve[:, 2].sum() == pytest.approx(1)
    error = sum(
        fraction * abs(confidence - accuracy)
        for confidence, accuracy, fraction in expected
    )
    assert expected_calibration_error(curve) == pytest.approx(error)
    assert error > 0.01


def test_calibration_at_full_confidence():
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(reliability(scores, np.array([0, 1]))) == 0
    assert expected_calibration_error(reliability(scores, np.array([1, 0]))) == 1
    half = reliability(scores, np.array([0, 0]))
    assert half.tolist() == [[1.0, 0.5, 1.0]]
    assert expected_calibration_error(half) == 0.5
