import dataclasses
import json

import numpy as np
import pytest

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.predictors import RefusedInput
from apps.sentiment_analysis.data import Examples
from apps.sentiment_analysis.embedded import sentences
from apps.sentiment_analysis.evaluate import draw, evaluate, score, summarize
from apps.sentiment_analysis.metrics import expected_calibration_error, reliability
from tests.apps.sentiment_analysis.untrained import write_run

CLASSES = ("no", "so", "yes")
TEXTS = ["a much longer text, and yes", "yes", "no, said the other", "yes and no", "so"]
LABELS = np.array([2, 2, 0, 0, 1])
SEEN = []


def predictor(texts):
    """Scores a text by the words in it. `yes and no` is a mistake."""
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
        "classes": np.array(CLASSES, "S")[order].astype(object),
        "scores": np.take_along_axis(scores, order, axis=1),
        "tokens": [" ".join("▁so" for _ in text).encode() for text in texts],
        "attention": [b"1.0 " * len(text) for text in texts],
    }


@pytest.fixture
def examples():
    return Examples(TEXTS, LABELS, CLASSES)


def answer_only(texts):
    answers = predictor(texts)
    return {name: answers[name] for name in ("classes", "scores")}


def test_texts_are_scored_by_length_and_answers_keep_their_order(examples):
    SEEN.clear()
    result = score(answer_only, examples)
    (asked,) = SEEN
    assert asked == sorted(TEXTS, key=len)
    assert result.predictions.tolist() == [2, 2, 0, 2, 1]
    assert result.labels.tolist() == LABELS.tolist()
    np.testing.assert_array_equal(result.scores[2], [0.6, 0.3, 0.1])
    assert result.surest_mistakes.tolist() == [3]


def test_metrics(examples):
    result = score(answer_only, examples)
    report = summarize(result)
    assert report["examples"] == 5
    assert report["accuracy"] == 4 / 5
    assert report["macro_recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert report["macro_f1"] == pytest.approx((2 / 3 + 1 + 4 / 5) / 3)
    curve = reliability(result.scores, result.labels)
    error = expected_calibration_error(curve)
    assert report["expected_calibration_error"] == error > 0
    assert tuple(report["classes"]) == CLASSES
    assert json.loads(json.dumps(report)) == report


def test_classes_without_examples_do_not_count():
    some = Examples(["yes", "no"], np.array([1, 0]), ("no", "yes"))
    report = summarize(score(answer_only, some))
    assert report["macro_recall"] == report["macro_f1"] == 1.0
    assert report["classes"]["so"]["examples"] == 0


def test_an_unknown_class_is_refused(examples):
    other = dataclasses.replace(examples, class_names=("no", "maybe", "yes"))
    with pytest.raises(BadInput, match=r"the class maybe, .* only no, so, yes"):
        score(answer_only, other)


def test_a_refused_text_is_quoted(examples):
    def refuse(texts):
        raise RefusedInput(1 + texts.index("yes and no"), "it is too short")

    says = r'the model refuses "yes and no": it is too short'
    with pytest.raises(BadInput, match=says):
        score(refuse, examples)


def test_figures_are_drawn_with_and_without_mistakes(examples, tmp_path):
    for part in (examples, datasets.take(examples, [0, 1])):
        folder = tmp_path / str(len(part))
        draw(score(answer_only, part), part, predictor, folder)
        assert {path.name for path in folder.iterdir()} == {
            "confusion_matrix.png",
            "reliability.png",
            "worst_mistakes.png",
        }


def test_other_data_with_other_columns_is_scored_whole(tmp_path, capsys):
    rows = [(text, name) for text, name in sentences(60) if name != "neutral"]
    table = ["says,means", *(f'"{text}",{name}' for text, name in rows)]
    (tmp_path / "other.csv").write_text("\n".join(table) + "\n")
    report = evaluate(
        str(write_run(tmp_path / "run")),
        str(tmp_path / "other.csv"),
        text_column="says",
        label_column="means",
        figures_folder=tmp_path / "figures",
    )
    assert report["examples"] == len(rows) == 40
    assert list(report["classes"]) == ["negative", "neutral", "positive"]
    assert report["classes"]["neutral"]["examples"] == 0
    assert (tmp_path / "figures/reliability.png").exists()
    assert f"figures: {tmp_path / 'figures'}" in capsys.readouterr().out
