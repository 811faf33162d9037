import numpy as np
import pytest

from apps.object_detection import metrics
from apps.object_detection.data import Examples
from apps.object_detection.metrics import evaluate_boxes

CLASSES = ("box", "disc")


def make_examples(labels, classes=CLASSES):
    """Returns `Examples` without images.

    Args:
        labels: For each image a list of x1, y1, x2, y2, class number and whether it is
            a crowd.
        classes: The names of the classes.
    """
    columns = [np.array(each, "float32").reshape(-1, 6) for each in labels]
    return Examples(
        [str(i) for i in range(len(labels))],
        [str(i).encode() for i in range(len(labels))],
        [each[:, :4] for each in columns],
        [each[:, 4].astype(int) for each in columns],
        [each[:, 5].astype(bool) for each in columns],
        tuple(classes),
    )


def make_answers(detected, max_boxes=100):
    """Returns answers as a predictor does.

    Args:
        detected: For each image a list of x1, y1, x2, y2, class name and score, the
            best ones first.
        max_boxes: The number of boxes for which there is room.
    """
    number = len(detected)
    answers = {
        "boxes": np.zeros((number, max_boxes, 4), "float32"),
        "classes": np.full((number, max_boxes), b"", object),
        "scores": np.zeros((number, max_boxes), "float32"),
        "num_detections": np.array(list(map(len, detected)), "int32"),
    }
    for i, found in enumerate(detected):
        for j, (*box, name, score) in enumerate(found):
            answers["boxes"][i, j] = box
            answers["classes"][i, j] = name.encode()
            answers["scores"][i, j] = score
    return answers


def random_pair(seed, num_images=12):
    """Returns examples, and answers that find many of their boxes and others."""
    random = np.random.default_rng(seed)
    labels, detected = [], []
    for _ in range(num_images):
        number = random.integers(0, 12)
        corners = random.uniform(0, 300, (number, 2))
        sizes = random.uniform(8, 120, (number, 2))
        boxes = np.concatenate([corners, corners + sizes], axis=1)
        numbers = random.integers(0, 2, number)
        is_crowd = random.random(number) < 0.1
        labels.append(np.column_stack([boxes, numbers, is_crowd]))
        moved = boxes + random.normal(0, 0.05, boxes.shape) * np.tile(sizes, 2)
        is_right = random.random(number) < 0.8
        found = [
            (*box, CLASSES[label if right else 1 - label], score)
            for box, label, right, score in zip(
                moved, numbers, is_right, random.random(number), strict=True
            )
        ]
        found += [(*box + 30, "box", random.random() / 2) for box in boxes[::2]]
        detected.append(sorted(found, key=lambda each: -each[-1]))
    return make_examples(labels), make_answers(detected)


# Two boxes in one image; the first and the third answer are right.
TWO_BOXES = make_examples([[(0, 0, 50, 50, 0, 0), (100, 100, 150, 150, 0, 0)]])
THREE_ANSWERS = make_answers(
    [
        [
            (0, 0, 50, 50, "box", 0.9),
            (200, 0, 250, 50, "box", 0.8),
            (100, 100, 150, 150, "box", 0.7),
        ]
    ]
)


def test_the_average_precision_of_a_small_example():
    scores = metrics.summarize(evaluate_boxes(TWO_BOXES, THREE_ANSWERS))
    # Precision is 1 up to a recall of 0.5, and 2/3 above.
    expected = (51 + 50 * 2 / 3) / 101
    assert scores["map"] == pytest.approx(expected)
    assert scores["ap50"] == pytest.approx(expected)
    assert scores["map_medium"] == pytest.approx(expected)
    assert scores["map_small"] is None
    assert scores["map_large"] is None


def test_classes_without_labels_do_not_count():
    evaluation = evaluate_boxes(TWO_BOXES, THREE_ANSWERS)
    expected = (51 + 50 * 2 / 3) / 101
    assert metrics.summarize_class(evaluation, 0)["ap"] == pytest.approx(expected)
    assert metrics.summarize_class(evaluation, 1) == {"ap": None, "ap50": None}


def test_a_box_counts_from_its_overlap_on():
    labels = make_examples([[(0, 0, 100, 100, 0, 0)]])
    # Its IoU is 0.72, so it counts at 0.5, 0.55, 0.6, 0.65 and 0.7.
    answers = make_answers([[(0, 0, 100, 72, "box", 0.9)]])
    scores = metrics.coco_scores(labels, answers)
    assert scores == pytest.approx({"map": 0.5, "ap50": 1, "ap75": 0})


def test_crowds_are_ignored():
    crowd = (200, 0, 260, 60, 0, 1)
    labels = make_examples([[(0, 0, 50, 50, 0, 0), crowd]])
    in_crowd = [(0, 0, 50, 50, "box", 0.6), (205, 5, 230, 30, "box", 0.5)]
    for first in in_crowd, in_crowd[::-1]:
        found = [(*each[:5], 0.9 - i / 10) for i, each in enumerate(first)]
        answers = make_answers([found])
        assert metrics.coco_scores(labels, answers)["map"] == pytest.approx(1)
        ((labelled, detected),) = metrics.pair_boxes(labels, answers, 0.1)
        assert (labelled.tolist(), detected.tolist()) == ([0], [0])


def test_boxes_of_unknown_classes_are_left_out():
    found = [(0, 0, 9, 9, "cone", 0.9), (0, 0, 50, 50, "disc", 0.8)]
    boxes, classes, scores = metrics.detections(make_answers([found]), 0, CLASSES)
    assert (boxes.tolist(), classes.tolist()) == ([[0, 0, 50, 50]], [1])
    assert scores == pytest.approx([0.8])


def test_images_without_labels_or_answers_have_no_score():
    nothing = make_examples([[], []])
    scores = metrics.summarize(evaluate_boxes(nothing, make_answers([[], []])))
    assert set(scores.values()) == {None}
    assert metrics.coco_scores(nothing, make_answers([[], []]))["map"] == 0
    assert metrics.coco_scores(TWO_BOXES, make_answers([[]]))["map"] == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_counted_images_are_repeated_images(seed):
    """Counting an image twice gives the score of data that has it twice."""
    examples, answers = random_pair(seed)
    evaluation = evaluate_boxes(examples, answers)
    matches = metrics.class_matches(evaluation)
    ones = np.ones(len(examples), int)
    for number, each in enumerate(matches):
        expected = metrics.summarize_class(evaluation, number)
        precision = metrics.average_precision(each, ones)
        assert precision.mean() == pytest.approx(expected["ap"])
        assert precision[0] == pytest.approx(expected["ap50"])

    counts = np.random.default_rng(seed).integers(0, 3, len(examples))
    chosen = np.repeat(np.arange(len(examples)), counts)
    repeated = make_examples(
        [
            np.column_stack(
                [examples.boxes[i], examples.box_classes[i], examples.is_crowd[i]]
            )
            for i in chosen
        ]
    )
    same = {name: values[chosen] for name, values in answers.items()}
    evaluation = evaluate_boxes(repeated, same)
    for number, each in enumerate(matches):
        precision = metrics.average_precision(each, counts)
        expected = metrics.summarize_class(evaluation, number)
        assert precision.mean() == pytest.approx(expected["ap"])


def test_without_labels_the_average_precision_is_nan():
    (matches, _) = metrics.class_matches(evaluate_boxes(TWO_BOXES, THREE_ANSWERS))
    assert np.isnan(metrics.average_precision(matches, np.zeros(1, int))).all()


def test_the_interval_holds_the_score_and_shrinks_with_more_images():
    widths = []
    for num_images in (10, 60):
        examples, answers = random_pair(3, num_images)
        evaluation = evaluate_boxes(examples, answers)
        scores, intervals = metrics.summarize(evaluation), metrics.bootstrap(evaluation)
        assert intervals == metrics.bootstrap(evaluation)  # The seed is fixed.
        for name, (low, high) in intervals.items():
            assert low < scores[name] < high
        widths.append(np.diff(intervals["map"]))
    assert widths[1] < 0.7 * widths[0]


def test_precision_and_recall_at_a_confidence():
    matches, _ = metrics.class_matches(evaluate_boxes(TWO_BOXES, THREE_ANSWERS))
    values = [metrics.precision_and_recall(matches, x) for x in (0.95, 0.85, 0.75, 0.5)]
    assert values == [(0, 0), (1, 1 / 2), (1 / 2, 1 / 2), (2 / 3, 1)]
    assert metrics.f1_score(matches, 0.85) == pytest.approx(2 / 3)
    assert metrics.f1_score(matches, 0.95) == 0


def test_the_best_confidence_has_the_best_f1():
    found = [
        (0, 0, 50, 50, "box", 0.9),
        (100, 100, 150, 150, "box", 0.7),
        (200, 0, 250, 50, "box", 0.3),
    ]

    def predictor(images):
        assert images == [b"0"]
        return make_answers([found])

    # From 0.31 to 0.70; the middle one.
    assert metrics.best_confidence(predictor, TWO_BOXES) == 0.5
    found[1] = (*found[1][:5], 0.4)
    assert 0.31 <= metrics.best_confidence(predictor, TWO_BOXES) <= 0.4
    assert metrics.best_confidence(predictor, make_examples([[]])) == 0.5


def test_labelled_and_detected_boxes_are_paired():
    labels = make_examples(
        [
            [
                (0, 0, 50, 50, 0, 0),  # Found.
                (100, 0, 150, 50, 1, 0),  # Found, but taken for a box.
                (0, 100, 50, 150, 1, 0),  # Missed.
            ],
            [],
        ]
    )
    found = [
        (100, 0, 150, 48, "box", 0.95),
        (0, 0, 50, 40, "box", 0.9),
        (0, 0, 50, 48, "box", 0.6),  # Overlaps more, so the other one is false.
        (0, 105, 20, 120, "disc", 0.5),  # Overlaps too little.
        (0, 100, 50, 150, "disc", 0.2),  # Below the confidence.
    ]
    answers = make_answers([found, [(0, 0, 9, 9, "disc", 0.9)]])
    first, second = metrics.pair_boxes(labels, answers, 0.4)
    pairs = sorted(zip(*map(np.ndarray.tolist, first), strict=True))
    assert pairs == [(0, 0), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert second.tolist() == [[2], [1]]


def test_a_missing_box_or_another_score_is_a_change():
    _, answers = random_pair(0)
    assert metrics.changed_boxes(answers, answers, CLASSES) == 0
    found = [(0, 0, 50, 50, "box", 0.9), (99, 99, 150, 150, "box", 0.5)]
    for other, expected in (
        ([found[0], (99, 99, 150, 149, "box", 0.48)], 0),  # Nearly the same.
        ([found[0], (99, 99, 150, 150, "box", 0.2)], 1 / 3),
        ([found[0], (99, 99, 150, 150, "disc", 0.5)], 2 / 4),
        ([found[0], (199, 99, 250, 150, "box", 0.5)], 2 / 4),
        (found[:1], 1 / 3),
        ([], 1),
        ([*found, (0, 0, 9, 9, "box", 0.1)], 0),  # Low scores do not count.
    ):
        answers = [make_answers([each]) for each in (found, other)]
        changed = metrics.changed_boxes(*answers, CLASSES)
        assert changed == pytest.approx(expected)


def test_the_callback_adds_scores_to_the_logs():
    callback = metrics.ValidationMap(lambda images: THREE_ANSWERS, TWO_BOXES)
    logs = {"loss": 1.0}
    callback.on_epoch_end(0, logs)
    expected = metrics.coco_scores(TWO_BOXES, THREE_ANSWERS)
    assert logs == {
        "loss": 1.0,
        "val_map": expected["map"],
        "val_ap50": expected["ap50"],
    }
