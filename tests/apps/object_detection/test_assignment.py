import numpy as np
import pytest
import tensorflow as tf

from apps.object_detection.assignment import assign, contains
from apps.object_detection.config import CROWD, PADDING

RNG = np.random.default_rng(0)
POINTS = np.stack(np.meshgrid(np.arange(4, 96, 8.0), np.arange(4, 64, 8.0)), -1)
POINTS = POINTS.reshape(-1, 2).astype("float32")
NUM_POINTS = len(POINTS)


def overlap(a, b):
    """Returns the intersection over union of two boxes."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = max(width, 0) * max(height, 0)
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def is_inside(point, box, min_side):
    center = (box[:2] + box[2:]) / 2
    return (np.abs(point - center) <= np.maximum(box[2:] - box[:2], min_side) / 2).all()


def reference(scores, boxes, target_boxes, target_classes, min_side):
    """Assigns the points of one image, target by target."""
    alignments, ious = {}, {}
    for t, (target, number) in enumerate(
        zip(target_boxes, target_classes, strict=True)
    ):
        if number < 0:
            continue
        inside = [
            i for i in range(NUM_POINTS) if is_inside(POINTS[i], target, min_side)
        ]
        iou = {i: overlap(target, boxes[i]) for i in inside}
        aligned = {i: scores[i, number] ** 0.5 * iou[i] ** 6 for i in inside}
        best = sorted(inside, key=aligned.get, reverse=True)[:10]
        for i in best:
            if aligned[i] > 0 and iou[i] > ious.get(i, (0, None))[0]:
                ious[i] = iou[i], t
                alignments[i] = aligned[i]
    matched, quality = {}, np.zeros(NUM_POINTS)
    for i, (_, t) in ious.items():
        mine = [j for j in ious if ious[j][1] == t]
        matched[i] = t
        largest = max(alignments[j] for j in mine)
        quality[i] = alignments[i] / largest * max(ious[j][0] for j in mine)
    return matched, quality


def random_targets(number, num_images=3):
    corners = RNG.uniform(0, 60, (num_images, number, 2))
    sides = RNG.uniform(6, 36, (num_images, number, 2))
    boxes = np.concatenate([corners, corners + sides], -1).astype("float32")
    return boxes, RNG.integers(0, 3, (num_images, number)).astype("int32")


def random_predictions(num_images=3):
    reach = RNG.uniform(4, 24, (num_images, NUM_POINTS, 4))
    corners = [POINTS - reach[..., :2], POINTS + reach[..., 2:]]
    boxes = np.concatenate(corners, -1).astype("float32")
    scores = RNG.uniform(0.01, 1, (num_images, NUM_POINTS, 3)).astype("float32")
    return scores, boxes


@pytest.mark.parametrize("num_targets", [1, 8])
def test_the_assignment_equals_numpy(num_targets):
    target_boxes, target_classes = random_targets(num_targets)
    target_classes[0, -1] = PADDING
    target_classes[1, 0] = CROWD
    scores, boxes = random_predictions()

    target, quality = assign(
        POINTS, scores, boxes, target_boxes, target_classes, min_side=8
    )

    for image in range(3):
        matched, expected = reference(
            scores[image], boxes[image], target_boxes[image], target_classes[image], 8
        )
        np.testing.assert_allclose(quality[image], expected, rtol=1e-3, atol=1e-6)
        for i, t in matched.items():
            assert target[image, i] == t
    assert np.max(quality) > 0.2
    assert quality.shape == (3, NUM_POINTS)


def test_padding_and_crowds_change_nothing():
    target_boxes, target_classes = random_targets(4)
    scores, boxes = random_predictions()
    _, expected = assign(POINTS, scores, boxes, target_boxes, target_classes, 8)
    more = np.array([[[0, 0, 90, 60], [0, 0, 0, 0]]] * 3, "float32")
    numbers = np.array([[CROWD, PADDING]] * 3, "int32")
    _, quality = assign(
        POINTS,
        scores,
        boxes,
        np.concatenate([target_boxes, more], 1),
        np.concatenate([target_classes, numbers], 1),
        8,
    )
    np.testing.assert_array_equal(quality, expected)


def test_without_targets_all_points_are_background():
    scores, boxes = random_predictions()
    padding = np.zeros((3, 2, 4), "float32"), np.full((3, 2), PADDING, "int32")
    _, quality = assign(POINTS, scores, boxes, *padding, 8)
    np.testing.assert_array_equal(quality, np.zeros((3, NUM_POINTS)))


def test_a_tiny_target_has_a_point():
    """Its box lies between the points."""
    target_boxes = np.array([[[15, 7, 17, 9]]], "float32")
    boxes = np.tile(target_boxes, (1, NUM_POINTS, 1))
    scores = np.full((1, NUM_POINTS, 1), 0.1, "float32")
    classes = np.zeros((1, 1), "int32")
    _, quality = assign(POINTS, scores, boxes, target_boxes, classes, min_side=8)
    assert np.max(quality) == pytest.approx(1, abs=1e-5)
    _, quality = assign(POINTS, scores, boxes, target_boxes, classes, min_side=0)
    assert np.max(quality) == 0


def test_every_target_keeps_the_alignment_even_if_it_is_tiny():
    target_boxes = np.array([[[0, 0, 64, 64]]], "float32")
    small = np.concatenate([POINTS - 0.1, POINTS + 0.1], -1)[None]
    scores = np.full((1, NUM_POINTS, 1), 1e-3, "float32")
    classes = np.zeros((1, 1), "int32")
    _, quality = assign(POINTS, scores, small, target_boxes, classes, 8)
    assert np.isfinite(quality).all()


def test_the_assignment_works_on_unknown_numbers_of_points():
    target_boxes, target_classes = random_targets(3)
    scores, boxes = random_predictions()
    expected = assign(POINTS, scores, boxes, target_boxes, target_classes, 8)
    specs = [
        tf.TensorSpec([None, 2]),
        tf.TensorSpec([None, None, 3]),
        tf.TensorSpec([None, None, 4]),
    ]
    compiled = tf.function(
        lambda *inputs: assign(*inputs, target_boxes, target_classes, 8),
        input_signature=specs,
    )
    for answer, each in zip(compiled(POINTS, scores, boxes), expected, strict=True):
        np.testing.assert_allclose(answer, each, atol=1e-6)


def test_points_on_the_border_are_inside():
    boxes = np.array([[[0, 0, 10, 20], [10, 10, 10, 10]]], "float32")
    points = np.array([[0, 0], [10, 20], [10.1, 5], [10, 10], [12, 8]], "float32")
    inside = contains(boxes, points)
    expected = [[True, True, False, True, False], [False, False, False, True, False]]
    np.testing.assert_array_equal(inside[0], expected)
    enlarged = contains(boxes, points, min_side=4)
    assert enlarged[0, 1].numpy().tolist() == [False, False, False, True, True]
