import json

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.object_detection import evaluate
from tests.apps.object_detection.test_metrics import (
    THREE_ANSWERS,
    TWO_BOXES,
    make_answers,
    make_examples,
)


def predictor(images):
    """Answers the image of `TWO_BOXES`."""
    assert images == [b"0"]
    return THREE_ANSWERS


def test_the_report():
    scores = evaluate.score(predictor, TWO_BOXES)
    report = evaluate.summarize(scores, TWO_BOXES, confidence=0.75)
    assert report["map"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert report["map_interval"] == pytest.approx([report["map"]] * 2)
    assert report["map_large"] is None
    assert report["images"] == 1
    assert report["seconds"] >= 0
    assert report["confidence"] == 0.75
    assert list(report["classes"]) == ["box", "disc"]
    box = {"ap": report["map"], "ap50": report["ap50"], "boxes": 2}
    assert report["classes"]["box"] == pytest.approx(
        {**box, "precision": 1 / 2, "recall": 1 / 2}
    )
    disc = {"ap": None, "ap50": None, "boxes": 0, "precision": 0, "recall": 0}
    assert report["classes"]["disc"] == disc
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_report_is_printed(capsys):
    scores = evaluate.score(predictor, TWO_BOXES)
    report = evaluate.summarize(scores, TWO_BOXES, confidence=0.75)
    report["baseline"] = {"name": "a guess", "map": 0.1, "ap50": 0.2}
    evaluate.print_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["box", "0.835", "0.835", "0.500", "0.500", "2"]
    assert lines[2].split() == ["disc", "–", "–", "0.000", "0.000", "0"]
    assert lines[3] == "precision and recall of boxes with scores from 0.75"
    assert lines[4] == "mAP  0.8350  95 % interval 0.835 to 0.835"
    assert lines[5].startswith("AP50 0.8350 ")
    assert "0.835 medium" in lines[7]
    assert lines[8] == "baseline mAP 0.1000, AP50 0.2000 (a guess)"
    assert lines[9].startswith("1 images, ")


def test_images_without_labels_are_refused():
    for labels in ([[], []], [[(0, 0, 9, 9, 0, 1)], []]):  # A crowd is no label.
        message = "none of the 2 images has a labelled box"
        with pytest.raises(BadInput, match=message):
            evaluate.score(predictor, make_examples(labels))


def test_a_model_that_lacks_a_class_is_refused(capsys):
    evaluate.check_classes(None, ("cone",))
    evaluate.check_classes({"classes": ["box", "cone"]}, ("cone", "box"))
    assert capsys.readouterr().out == ""
    evaluate.check_classes({"classes": ["box", "cone"]}, ("cone",))
    says = "boxes of box are not scored: the data has no such class\n"
    assert capsys.readouterr().out == says
    message = "the class disc, but the model knows only box, cone; evaluate on"
    with pytest.raises(BadInput, match=message):
        evaluate.check_classes({"classes": ["box", "cone"]}, ("box", "disc"))


def test_the_worst_images_are_drawn_first(monkeypatch, tmp_path):
    # Its boxes are all found, none, or half of them.
    labels = [[(0, 0, 50, 50, 0, 0), (60, 0, 90, 30, 1, 0)] for _ in range(3)]
    found = [[(0, 0, 50, 50, "box", 0.9), (60, 0, 90, 30, "disc", 0.8)], [], []]
    found[2] = [*found[0][:1], (0, 60, 50, 99, "disc", 0.2)]
    examples, answers = make_examples(labels), make_answers(found)
    scores = evaluate.score(lambda images: answers, examples)
    drawn = {}

    def draw_boxes(panels, path, columns):
        drawn[path.name] = panels

    monkeypatch.setattr(evaluate.figures, "draw_boxes", draw_boxes)
    evaluate.draw(scores, examples, 0.4, tmp_path)
    assert {"precision_recall.png", "confusion_matrix.png"} == {
        path.name for path in tmp_path.iterdir()
    }
    titles = [panel.title for panel in drawn["worst.png"]]
    assert titles == [
        text for name in "120" for text in (f"{name}, labels", "detected")
    ]
    half = drawn["worst.png"][2:4]
    assert half[0].texts == ["box", "disc"]
    assert half[1].texts == ["box 0.90"]  # The other one is below the confidence.
    np.testing.assert_array_equal(half[1].boxes, [(0, 0, 50, 50)])
    np.testing.assert_array_equal(half[0].colors[:1], half[1].colors)
