import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.predictors import as_predictor
from apps.object_detection.config import CROWD, PADDING
from apps.object_detection.data import load_examples, make_batches
from apps.object_detection.faster_rcnn import (
    MAX_DELTA,
    MAX_POSITIVES,
    NUM_PROPOSALS,
    NUM_SAMPLES,
    VARIANCE,
    box_head_loss,
    propose,
    refine,
    sample,
)
from apps.object_detection.metrics import coco_scores, detect
from apps.object_detection.model import build_model
from apps.object_detection.signatures import Detector
from apps.object_detection.train import compile_model
from tests.apps.object_detection.shapes import CLASSES, small, write

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (2, 64, 96, 3)).astype("float32")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return build_model(
        num_classes=3,
        model="faster_rcnn",
        backbone="small_resnet",
        weights=None,
        filters=16,
        num_bins=8,
    )


def random_boxes(*shape, smallest=8, largest=40):
    corners = RNG.uniform(0, 60, (*shape, 2))
    sides = RNG.uniform(smallest, largest, (*shape, 2))
    return np.concatenate([corners, corners + sides], -1).astype("float32")


def overlaps(boxes, others):
    """Returns the intersection over union of each box with each other one."""
    start = np.maximum(boxes[:, None, :2], others[None, :, :2])
    end = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.prod(np.maximum(end - start, 0), -1)
    areas = [np.prod(each[:, 2:] - each[:, :2], -1) for each in (boxes, others)]
    return common / (areas[0][:, None] + areas[1] - common)


# Boxes and deltas.


def encode(proposals, boxes):
    """Returns the deltas from proposals to boxes, vertical ones first."""
    sides, wanted = (each[:, 2:] - each[:, :2] for each in (proposals, boxes))
    centers, goals = ((each[:, :2] + each[:, 2:]) / 2 for each in (proposals, boxes))
    moves, factors = (goals - centers) / sides, np.log(wanted / sides)
    deltas = [moves[:, 1], moves[:, 0], factors[:, 1], factors[:, 0]]
    return (np.stack(deltas, -1) / VARIANCE).astype("float32")


def pairs(least_iou):
    """Returns boxes of any two of which at least `least_iou` is common."""
    proposals, boxes = random_boxes(4000), random_boxes(4000)
    boxes = proposals + (boxes - proposals) * RNG.uniform(0, 1, (4000, 1))
    boxes = boxes.astype("float32")
    iou = [
        overlaps(a[None], b[None])[0, 0] for a, b in zip(proposals, boxes, strict=True)
    ]
    is_close = np.array(iou) >= least_iou
    return proposals[is_close], boxes[is_close]


def test_encoded_boxes_are_refined_to_the_same_boxes():
    proposals, boxes = pairs(least_iou=0.5)
    deltas = encode(proposals, boxes)
    assert len(deltas) > 500
    assert np.abs(deltas).max() < MAX_DELTA
    refined = refine(proposals[None], deltas[None])
    np.testing.assert_allclose(refined[0], boxes, rtol=1e-4, atol=1e-3)


def test_deltas_are_bounded():
    boxes = random_boxes(1, 3)
    refined = refine(boxes, np.full((1, 3, 4), 1e6, "float32"))
    largest = np.full((1, 3, 4), MAX_DELTA, "float32")
    np.testing.assert_allclose(refined, refine(boxes, largest))


def test_the_loss_trains_deltas_that_refine_proposals_to_their_targets():
    proposals, boxes = (each[:10] for each in pairs(least_iou=0.5))
    samples = make_samples(proposals, boxes, np.arange(10) % 3)
    logits = np.full((1, 10, 4), -40.0, "float32")
    logits[0, range(10), np.arange(10) % 3] = 40
    right = encode(proposals, boxes)[None]
    assert float(box_head_loss(logits, right, samples)) == pytest.approx(0, abs=1e-4)
    wrong = right + np.array([2, 0, 0, 0], "float32")
    # Smooth L1: linear with slope 1 beyond 1.
    assert float(box_head_loss(logits, wrong, samples)) == pytest.approx(1.5, abs=1e-3)


def make_samples(proposals, boxes, classes, is_positive=None, is_negative=None):
    number = len(proposals)
    is_positive = np.ones(number, bool) if is_positive is None else is_positive
    is_negative = ~is_positive if is_negative is None else is_negative
    return {
        "proposals": proposals[None],
        "boxes": boxes[None],
        "classes": classes[None].astype("int32"),
        "is_positive": is_positive[None],
        "is_negative": is_negative[None],
    }


def test_the_loss_of_the_box_head_equals_numpy():
    proposals, boxes = (each[:12] for each in pairs(least_iou=0.5))
    classes = RNG.integers(0, 3, 12)
    is_positive, is_negative = (
        np.arange(12) < 4,
        (np.arange(12) >= 4) & (np.arange(12) < 9),
    )
    samples = make_samples(proposals, boxes, classes, is_positive, is_negative)
    logits = RNG.normal(0, 2, (1, 12, 4)).astype("float32")
    deltas = RNG.normal(0, 2, (1, 12, 4)).astype("float32")
    log_p = logits[0] - np.log(np.exp(logits[0]).sum(-1, keepdims=True))
    errors = np.abs(encode(proposals, boxes) - deltas[0])
    smooth = np.where(errors < 1, errors**2 / 2, errors - 0.5).sum(-1)
    expected = -log_p[range(4), classes[:4]].sum() - log_p[4:9, 3].sum()
    expected = (expected + smooth[:4].sum()) / 9

    assert float(box_head_loss(logits, deltas, samples)) == pytest.approx(
        expected, rel=1e-4
    )
    # The rest of the sample does not matter.
    logits[0, 9:], deltas[0, 4:] = 7, 9
    logits[0, 9:, 0] = -9
    assert float(box_head_loss(logits, deltas, samples)) == pytest.approx(
        expected, rel=1e-4
    )


def test_gradients_of_the_box_head_match_finite_differences():
    proposals, boxes = (each[:6] for each in pairs(least_iou=0.5))
    samples = make_samples(
        proposals, boxes, RNG.integers(0, 3, 6), np.arange(6) < 3, np.arange(6) == 4
    )
    inputs = [RNG.normal(0, 2, (1, 6, 4)).astype("float32") for _ in range(2)]
    variables = [tf.Variable(each) for each in inputs]
    with tf.GradientTape() as tape:
        loss = box_head_loss(*variables, samples)
    for i, gradient in enumerate(tape.gradient(loss, variables)):
        for index in np.ndindex(*gradient.shape):
            values = []
            for sign in (1, -1):
                moved = [each.copy() for each in inputs]
                moved[i][index] += sign * 1e-2
                values.append(float(box_head_loss(*moved, samples)))
            difference = (values[0] - values[1]) / 2e-2
            np.testing.assert_allclose(gradient[index], difference, atol=2e-3)


# Proposals.


def reference_proposals(boxes, scores, number):
    kept = []
    for i in np.argsort(-scores):
        if all(overlaps(boxes[[i]], boxes[[j]])[0, 0] <= 0.7 for j in kept):
            kept.append(i)
    return kept[:number]


@pytest.mark.parametrize("number", [20, 200])
def test_proposals_are_the_best_boxes_that_do_not_overlap(number):
    boxes = random_boxes(2, 300)
    logits = RNG.normal(0, 3, (2, 300, 1)).astype("float32")
    proposals, scores = propose(boxes, logits, number)
    assert proposals.shape == (2, number, 4)
    for image in range(2):
        kept = reference_proposals(boxes[image], logits[image, :, 0], number)
        np.testing.assert_allclose(proposals[image, : len(kept)], boxes[image, kept])
        expected = 1 / (1 + np.exp(-logits[image, kept, 0]))
        np.testing.assert_allclose(scores[image, : len(kept)], expected, rtol=1e-5)
        assert not np.any(scores[image, len(kept) :])
        assert not np.any(proposals[image, len(kept) :])


def test_candidates_are_the_refined_proposals(network):
    boxes, scores = network.candidates(IMAGES)
    outputs = network(IMAGES)
    proposals, objectness = propose(
        outputs["boxes"],
        np.concatenate([x.numpy().reshape(2, -1, 1) for x in outputs["logits"]], 1),
        NUM_PROPOSALS,
    )
    np.testing.assert_allclose(outputs["proposals"], proposals, atol=1e-3)
    head = network.get_layer("box_head")
    logits, deltas = head([*outputs["features"], proposals])
    np.testing.assert_allclose(boxes, refine(proposals, deltas), atol=1e-2)
    exponents = np.exp(logits)
    probabilities = (exponents / exponents.sum(-1, keepdims=True))[..., :-1]
    expected = np.sqrt(np.asarray(objectness)[..., None] * probabilities)
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


# Samples.


def make_targets(boxes, *classes):
    return {"boxes": boxes, "classes": np.array(classes, "int32")}


def taken(samples, image, name):
    """Returns the positive or the negative samples of an image."""
    chosen = samples[f"is_{name}"].numpy()[image]
    return {key: value.numpy()[image][chosen] for key, value in samples.items()}


def test_samples_are_chosen_by_overlap():
    targets = make_targets(random_boxes(2, 4), [0, 1, 2, PADDING], [2, PADDING, 1, 0])
    targets["boxes"][0, 3] = targets["boxes"][1, 1] = 0
    near = np.repeat(targets["boxes"], 12, axis=1) + RNG.uniform(-9, 9, (2, 48, 4))
    proposals = np.concatenate([near, random_boxes(2, 152)], 1).astype("float32")
    scores = np.ones((2, 200), "float32")
    scores[:, 190:] = 0
    proposals[:, 190:] = 0

    samples = sample(proposals, scores, targets)

    assert samples["proposals"].shape == (2, NUM_SAMPLES, 4)
    for image in range(2):
        is_target = targets["classes"][image] >= 0
        boxes = targets["boxes"][image][is_target]
        numbers = targets["classes"][image][is_target]
        positive = taken(samples, image, "positive")
        assert 5 < len(positive["proposals"]) <= MAX_POSITIVES
        iou = overlaps(positive["proposals"], boxes)
        assert (iou.max(-1) >= 0.5).all()
        np.testing.assert_array_equal(positive["boxes"], boxes[iou.argmax(-1)])
        np.testing.assert_array_equal(positive["classes"], numbers[iou.argmax(-1)])
        negative = taken(samples, image, "negative")
        assert (overlaps(negative["proposals"], boxes).max(-1) < 0.5).all()
        assert negative["proposals"].any(axis=-1).all()  # No padding.
        assert len(positive["proposals"]) + len(negative["proposals"]) == NUM_SAMPLES
        rows = np.concatenate([positive["proposals"], negative["proposals"]])
        assert len(np.unique(rows, axis=0)) == NUM_SAMPLES


def test_at_most_half_of_the_samples_are_positive():
    targets = make_targets(random_boxes(1, 1), [0])
    near = np.repeat(targets["boxes"], 150, axis=1) + RNG.uniform(-1, 1, (1, 150, 4))
    proposals = np.concatenate([near, near + 200], 1).astype("float32")
    samples = sample(proposals, np.ones((1, 300), "float32"), targets)
    assert samples["is_positive"].numpy().sum() == MAX_POSITIVES
    assert samples["is_negative"].numpy().sum() == NUM_SAMPLES - MAX_POSITIVES
    again = sample(proposals, np.ones((1, 300), "float32"), targets)
    assert np.any(again["proposals"] != samples["proposals"])  # It is random.


def test_targets_join_the_proposals():
    targets = make_targets(random_boxes(1, 3), [0, 1, CROWD])
    proposals, scores = np.zeros((1, 200, 4), "float32"), np.zeros((1, 200), "float32")
    samples = sample(proposals, scores, targets)
    positive = taken(samples, 0, "positive")
    np.testing.assert_array_equal(
        np.unique(positive["proposals"], axis=0),
        np.unique(targets["boxes"][0, :2], axis=0),
    )
    assert not samples["is_negative"].numpy().any()


def test_proposals_in_a_crowd_are_no_negative_ones():
    targets = make_targets(np.array([[[0, 0, 80, 80]]], "float32"), [CROWD])
    proposals = np.concatenate([random_boxes(1, 170), random_boxes(1, 30) + 60], 1)
    samples = sample(proposals, np.ones((1, 200), "float32"), targets)
    negative = taken(samples, 0, "negative")["proposals"]
    centers = (negative[:, :2] + negative[:, 2:]) / 2
    assert 0 < len(negative) < NUM_SAMPLES
    assert (centers > 80).any(axis=-1).all()
    assert not samples["is_positive"].numpy().any()


def test_images_without_targets_train_background():
    targets = make_targets(np.zeros((1, 1, 4), "float32"), [PADDING])
    samples = sample(random_boxes(1, 200), np.ones((1, 200), "float32"), targets)
    assert samples["is_negative"].numpy().all()


# Training.


@pytest.mark.parametrize(
    "numbers", [[0, 1, 2] * 6, [PADDING, PADDING], [CROWD, PADDING]]
)
def test_gradients_are_finite_and_targets_train_all_weights(network, numbers):
    targets = make_targets(random_boxes(2, len(numbers)), numbers, numbers)
    with tf.GradientTape() as tape:
        outputs = network(IMAGES, training=True)
        loss = network.compute_loss(IMAGES, targets, outputs)
    weights = [weight.value for weight in network.trainable_weights]
    gradients = tape.gradient(loss, weights)
    assert np.isfinite(loss)
    for weight, gradient in zip(network.trainable_weights, gradients, strict=True):
        assert np.isfinite(gradient).all(), weight.path
        if max(numbers) >= 0:
            assert np.abs(gradient).max() > 0, weight.path


@pytest.mark.slow
def test_a_few_drawings_are_learned(tmp_path):
    write(tmp_path, range(24))
    config = small(tmp_path, model="faster_rcnn", validation_fraction=0.25)
    splits = load_examples(config)
    keras.utils.set_random_seed(0)
    network = build_model(
        num_classes=2,
        model="faster_rcnn",
        backbone="small_resnet",
        weights=None,
        filters=32,
        num_bins=8,
    )
    compile_model(network, 3e-3, 1e-4)
    network.fit(make_batches(splits["train"], config, training=True), epochs=25)

    detector = Detector(network, config.image_size, CLASSES, config)
    predictor = as_predictor(detector.signatures["serving_default"])
    answers = detect(predictor, splits["train"])
    assert coco_scores(splits["train"], answers)["ap50"] > 0.8
