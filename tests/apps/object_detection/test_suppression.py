import numpy as np
import pytest
import tensorflow as tf

from apps.object_detection import edge
from apps.object_detection.suppression import suppress


def overlap(one, other):
    """Returns the intersection over union of two boxes."""
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def reference(boxes, scores, iou, confidence, max_boxes, max_candidates):
    """Suppresses the boxes of an image one by one, in plain Python."""
    candidates = sorted(range(len(boxes)), key=lambda i: -max(scores[i]))
    kept = []
    for number in range(scores.shape[1]):
        of_class = []
        for i in sorted(candidates[:max_candidates], key=lambda i: -scores[i, number]):
            is_free = all(overlap(boxes[i], boxes[j]) <= iou for j in of_class)
            if scores[i, number] > confidence and is_free and len(of_class) < max_boxes:
                of_class.append(i)
        kept += [(scores[i, number], number, i) for i in of_class]
    kept = sorted(kept, reverse=True)[:max_boxes]
    values, classes, numbers = zip(*kept, strict=True)
    return boxes[list(numbers)], np.array(values), np.array(classes)


@pytest.fixture(scope="module")
def candidates():
    """Random boxes, many of which overlap, of two images and three classes."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 100, (2, 300, 2))
    sizes = random.uniform(3, 40, (2, 300, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=-1).astype("float32")
    return boxes, random.random((2, 300, 3)).astype("float32")


@pytest.mark.parametrize(
    ("iou", "confidence", "max_boxes", "max_candidates"),
    [
        (0.4, 0.5, 200, 1000),
        (0.7, 0.01, 100, 1000),  # More boxes than are answered.
        (0.4, 0.5, 200, 50),  # Fewer candidates than points.
        (0.4, 0.99, 200, 1000),  # A few boxes.
    ],
)
def test_it_equals_the_reference(
    candidates, iou, confidence, max_boxes, max_candidates
):
    boxes, scores = candidates
    thresholds = {
        "iou": iou,
        "confidence": confidence,
        "max_boxes": max_boxes,
        "max_candidates": max_candidates,
    }
    compiled = tf.function(lambda *tensors: suppress(*tensors, **thresholds))
    *answers, numbers = compiled(boxes, scores)
    for i, number in enumerate(numbers.numpy()):
        expected = reference(boxes[i], scores[i], *thresholds.values())
        assert 0 < number == len(expected[0])
        for answer, values in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer[i, :number], values)
            assert not answer[i, number:].numpy().any()
            assert len(answer[i]) == max_boxes
    assert [answer.dtype for answer in answers] == [tf.float32, tf.float32, tf.int32]
    assert numbers.dtype == tf.int32


@pytest.mark.parametrize(("iou", "min_score"), [(0.4, 0.5), (0.7, 0.01), (0.4, 1.0)])
def test_a_device_suppresses_alike(candidates, iou, min_score):
    boxes, scores = candidates
    *answers, numbers = suppress(
        boxes, scores, iou=iou, confidence=min_score, max_boxes=edge.MAX_BOXES
    )
    for i, number in enumerate(numbers.numpy()):
        on_device = edge.suppress(boxes[i], scores[i], iou, min_score)
        for answer, values in zip(answers, on_device, strict=True):
            np.testing.assert_array_equal(answer[i, :number], values)


def test_a_device_looks_at_the_best_candidates_only(monkeypatch, candidates):
    monkeypatch.setattr(edge, "MAX_CANDIDATES", 50)
    boxes, scores = (each[0] for each in candidates)
    on_device = edge.suppress(boxes, scores, 0.4, 0.5)
    for answer, values in zip(
        on_device, reference(boxes, scores, 0.4, 0.5, 100, 50), strict=True
    ):
        np.testing.assert_array_equal(answer, values)


def test_nothing_is_kept_of_nothing():
    *answers, numbers = suppress(
        tf.zeros((0, 30, 4)), tf.zeros((0, 30, 2)), iou=0.5, confidence=0, max_boxes=7
    )
    assert [answer.shape for answer in answers] == [(0, 7, 4), (0, 7), (0, 7)]
    assert numbers.shape == (0,)
    boxes = np.zeros((0, 4), "float32")
    on_device = edge.suppress(boxes, np.zeros((0, 2), "float32"), 0.5, 0.1)
    assert [answer.shape for answer in on_device] == [(0, 4), (0,), (0,)]
