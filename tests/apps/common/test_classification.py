import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

from apps.common import classification
from apps.common.errors import BadInput

NAMES = ["ant", "bee", "cat"]
ANSWERS = {  # The best first; 1 and 2 are taken for ants.
    "0": (["ant", "bee", "cat"], [0.7, 0.2, 0.1]),
    "1": (["ant", "cat", "bee"], [0.6, 0.3, 0.1]),
    "2": (["ant", "bee", "cat"], [0.8, 0.15, 0.05]),
    "3": (["cat", "bee", "ant"], [0.8, 0.1, 0.1]),
}


def predictor(inputs):
    chosen = [ANSWERS[each] for each in inputs]
    return {
        "classes": np.array([[n.encode() for n in names] for names, _ in chosen], "O"),
        "scores": np.array([scores for _, scores in chosen]),
    }


def score(inputs, labels, class_names=NAMES):
    return classification.score(
        predictor, iter(inputs), np.array(labels), class_names, unit="word"
    )


def test_scores_are_put_back_into_the_order_of_the_classes():
    result = score("0123", [0, 0, 1, 2])
    assert result.class_names == NAMES
    np.testing.assert_array_equal(
        result.scores,
        [[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.8, 0.15, 0.05], [0.1, 0.1, 0.8]],
    )
    assert result.predictions.tolist() == [0, 0, 0, 2]
    assert result.labels.tolist() == [0, 0, 1, 2]
    assert result.seconds >= 0


def test_names_need_not_be_english():
    def predictor(inputs):
        names = [name.encode() for name in ("häßlich", "schön")]
        return {
            "classes": np.array([names], object),
            "scores": np.array([[0.9, 0.1]]),
        }

    result = classification.score(predictor, ["x"], [0], ["schön"], unit="word")
    assert result.class_names == ["häßlich", "schön"]
    assert (result.labels.tolist(), result.accuracy) == ([1], 0)


def test_data_may_have_fewer_classes_than_the_model():
    result = score("32", [1, 0], ["ant", "cat"])
    assert result.labels.tolist() == [2, 0]
    assert result.accuracy == 1.0


def test_a_class_that_the_model_does_not_know_is_named():
    with pytest.raises(BadInput, match=r"the class dog, .* knows only ant, bee, cat;"):
        score("0", [0], ["ant", "dog"])


def test_metrics():
    result = score("0123", [0, 0, 1, 2])
    assert result.accuracy == 3 / 4
    expected = recall_score(result.labels, result.predictions, average="macro")
    assert result.macro_recall == pytest.approx(expected) == pytest.approx(2 / 3)
    report = classification.summarize(result)
    assert report["accuracy"] == 3 / 4
    assert report["examples"] == 4
    ant, bee, _ = (report["classes"][name] for name in NAMES)
    assert (ant["precision"], ant["recall"], ant["f1"]) == (2 / 3, 1, 0.8)
    assert (bee["precision"], bee["recall"], bee["examples"]) == (0, 0, 1)


def test_the_surest_mistake_comes_first():
    assert score("0123", [1, 1, 1, 2]).surest_mistakes.tolist() == [2, 0, 1]
    assert score("03", [0, 2]).surest_mistakes.tolist() == []


def test_the_table_has_a_line_for_each_class(capsys):
    report = classification.summarize(score("0123", [0, 0, 1, 2]))
    classification.print_classes(report)
    classification.print_speed({**report, "seconds": 0.5}, "word")
    header, ant, bee, cat, speed = capsys.readouterr().out.splitlines()
    assert header.split() == ["class", "precision", "recall", "f1", "examples"]
    assert ant.split() == ["ant", "0.667", "1.000", "0.800", "2"]
    assert (bee.split()[0], cat.split()[0]) == ("bee", "cat")
    assert speed == "0.5 s, 8 words a second"
    classification.print_speed({**report, "seconds": 0.0}, "word")  # Not timed.


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_regression_becomes_a_softmax_layer(num_classes):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5))
    labels = rng.integers(0, num_classes, 60)
    regression = LogisticRegression().fit(features, labels)
    kernel, bias = classification.softmax_weights(regression)
    logits = features @ kernel + bias
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, regression.predict_proba(features), atol=1e-6)
