import json

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.sentiment_analysis.data import Examples, write_sentence
from apps.sentiment_analysis.evaluate import draw, evaluate, score, summarize
from apps.sentiment_analysis.metrics import expected_calibration_error, reliability

NAMES = ["no", "so", "yes"]
TEXTS = ["a much longer text, and yes", "yes", "no, said the other", "yes and no", "so"]
LABELS = np.array([2, 2, 0, 0, 1])
SEEN = []


def predictor(texts):
    """Scores a text by what stands in it; `yes and no` is wrongly taken for yes."""
    SEEN.append(list(texts))
    scores = np.array(
        [
            [0.1, 0.1, 0.8]
            if "yes" in text
            else [0.6, 0.3, 0.1]
            if "no" in text
            else [0.2, 0.5, 0.3]
            for text in texts
        ]
    )
    order = np.argsort(-scores, axis=1)
    return {
        "classes": np.array(NAMES, "S")[order].astype(object),
        "scores": np.take_along_axis(scores, order, axis=1),
        "tokens": np.array([[b"\xe2\x96\x81so"] * len(text) for text in texts][:1]),
        "attention": np.ones((1, len(texts[0]))),
    }


@pytest.fixture
def examples():
    return Examples(TEXTS, LABELS)


def answer_only(texts):
    answers = predictor(texts)
    return {name: answers[name] for name in ("classes", "scores")}


def test_short_texts_are_asked_about_first_and_answers_put_back(examples):
    SEEN.clear()
    result = score(answer_only, examples, NAMES)
    (asked,) = SEEN
    assert asked == sorted(TEXTS, key=len)
    assert result.predictions.tolist() == [2, 2, 0, 2, 1]
    assert result.labels.tolist() == LABELS.tolist()
    np.testing.assert_array_equal(result.scores[2], [0.6, 0.3, 0.1])
    assert result.surest_mistakes.tolist() == [3]


def test_metrics(examples):
    result = score(answer_only, examples, NAMES)
    report = summarize(result)
    assert report["examples"] == 5
    assert report["accuracy"] == 4 / 5
    assert report["macro_recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert report["macro_f1"] == pytest.approx((2 / 3 + 1 + 4 / 5) / 3)
    curve = reliability(result.scores, result.labels)
    error = expected_calibration_error(curve)
    assert report["expected_calibration_error"] == error > 0
    assert list(report["classes"]) == NAMES
    assert json.loads(json.dumps(report)) == report


def test_classes_without_examples_do_not_count():
    some = Examples(["yes", "no"], np.array([1, 0]))
    report = summarize(score(answer_only, some, ["no", "yes"]))
    assert report["macro_recall"] == report["macro_f1"] == 1.0
    assert report["classes"]["so"]["examples"] == 0


def test_a_class_that_the_model_does_not_know(examples):
    with pytest.raises(BadInput, match=r"the class maybe, .* only no, so, yes"):
        score(answer_only, examples, ["no", "maybe", "yes"])


def test_pictures_are_drawn_with_and_without_mistakes(examples, tmp_path):
    for part in (examples, examples[np.array([0, 1])]):
        folder = tmp_path / str(len(part))
        draw(score(answer_only, part, NAMES), part, predictor, folder)
        assert {path.name for path in folder.iterdir()} == {
            "confusion_matrix.png",
            "reliability.png",
            "worst_mistakes.png",
        }


@pytest.fixture
def foreign(tmp_path):
    """Other data, with other names of columns."""
    random = np.random.default_rng(5)
    rows = ["says,means"]
    for polarity in ("negative", "positive"):
        rows += [f'"{write_sentence(polarity, random)}",{polarity}' for _ in range(20)]
    path = tmp_path / "foreign.csv"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_other_data_with_other_columns_is_scored_whole(
    run, exported, foreign, tmp_path
):
    for model in (run, exported / "1", exported / "edge"):
        result = evaluate(
            str(model),
            foreign,
            text_column="says",
            label_column="means",
            pictures_folder=tmp_path / "pictures",
        )
        assert len(result.labels) == 40
        assert result.accuracy >= 0.9
        assert result.class_names == ["negative", "neutral", "positive"]
    assert (tmp_path / "pictures/reliability.png").exists()
