import keras
import numpy as np
import pytest
import tensorflow as tf

import layers
from apps.object_detection.config import CROWD, PADDING
from apps.object_detection.losses import (
    dense_loss,
    distribution_focal_loss,
    quality_focal_loss,
)

RNG = np.random.default_rng(0)
STRIDES, NUM_BINS, NUM_CLASSES = (8, 16), 8, 2
SHAPES = [(1, 8, 8), (1, 4, 4)]
BOX = [16.0, 8.0, 48.0, 56.0]


def check_gradient(loss, array, step=1e-4):
    """Compares a gradient with finite differences, in double precision."""
    variable = tf.Variable(array.astype("float64"))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss(variable))
    gradient = tape.gradient(value, variable).numpy()
    for index in np.ndindex(array.shape):
        values = []
        for sign in (1, -1):
            moved = variable.numpy()
            moved[index] += sign * step
            values.append(float(tf.reduce_sum(loss(tf.constant(moved)))))
        difference = (values[0] - values[1]) / (2 * step)
        assert gradient[index] == pytest.approx(difference, rel=1e-3, abs=1e-5)


def test_quality_focal_loss_equals_its_formula():
    scores, logits = RNG.uniform(0, 1, (2, 40)), RNG.normal(0, 4, (2, 40))
    predicted = 1 / (1 + np.exp(-logits))
    expected = (scores - predicted) ** 2 * -(
        scores * np.log(predicted) + (1 - scores) * np.log(1 - predicted)
    )
    np.testing.assert_allclose(quality_focal_loss(scores, logits), expected, rtol=1e-6)
    check_gradient(lambda logits: quality_focal_loss(scores, logits), logits)
    extreme = quality_focal_loss(np.array([0.0, 1.0]), np.array([-200.0, 200.0]))
    np.testing.assert_allclose(extreme, [0, 0], atol=1e-12)


def test_distribution_focal_loss_equals_its_formula():
    distances = RNG.uniform(0, NUM_BINS - 1.01, (1, 5, 4))
    distances[0, 0] = [0, 3, 5, 6]  # Whole numbers have one bin only.
    bins = RNG.normal(0, 2, (1, 5, 4 * NUM_BINS))
    expected = np.zeros(5)
    for point in range(5):
        for side, logits in enumerate(np.split(bins[0, point], 4)):
            log_p = logits - np.log(np.exp(logits).sum())
            d = distances[0, point, side]
            low = int(d)
            expected[point] -= (
                (low + 1 - d) * log_p[low] + (d - low) * log_p[low + 1]
            ) / 4
    losses = distribution_focal_loss(distances, bins)
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
    check_gradient(lambda bins: distribution_focal_loss(distances, bins), bins)


def targets(*rows):
    """Returns targets of one image from boxes and class numbers."""
    boxes = np.array([[box for box, _ in rows]], "float32")
    return {"boxes": boxes, "classes": np.array([[n for _, n in rows]], "int32")}


def predictions(logit=-3.0, seed=0):
    random = np.random.default_rng(seed)
    logits = [np.full((*s, NUM_CLASSES), logit, "float32") for s in SHAPES]
    bins = [
        random.normal(0, 1, (*shape, 4 * NUM_BINS)).astype("float32")
        for shape in SHAPES
    ]
    return logits, bins


def loss_of(logits, bins, wanted):
    decoder = layers.BoxDecoder(STRIDES, NUM_BINS)
    return dense_loss(decoder, logits, bins, decoder(bins), wanted)


def test_right_predictions_have_nearly_no_loss():
    """All points answer the box; those of the best alignment have the score 1."""
    decoder = layers.BoxDecoder(STRIDES, NUM_BINS)
    logits, bins = predictions(logit=-30.0)
    points, strides = decoder.points(bins)
    box = np.tile(np.array(BOX, "float32"), (1, 80, 1))
    distances = np.array(decoder.encode(box, points, strides))
    lower = np.floor(distances).astype(int)
    weights = np.stack([1 - distances + lower, distances - lower], -1)
    right = np.full((1, 80, 4, NUM_BINS), -40.0)
    for i in (0, 1):
        np.put_along_axis(
            right, lower[..., None] + i, np.log(weights[..., [i]] + 1e-17), -1
        )
    right = right.reshape(1, 80, -1).astype("float32")
    bins = [right[:, :64].reshape(1, 8, 8, -1), right[:, 64:].reshape(1, 4, 4, -1)]
    # The ten points that the assignment wants have the largest scores.
    inside = np.all((points > np.array(BOX[:2])) & (points < np.array(BOX[2:])), -1)
    reached = np.abs(decoder(bins)[0] - BOX).max(-1) < 0.1
    chosen = np.flatnonzero(inside & reached)[:10]
    flat = np.full((1, 80, NUM_CLASSES), -30.0, "float32")
    flat[0, chosen, 1] = 30
    logits = [flat[:, :64].reshape(1, 8, 8, -1), flat[:, 64:].reshape(1, 4, 4, -1)]
    good = float(loss_of(logits, bins, targets((BOX, 1))))
    entropy = -(weights * np.log(weights + 1e-17)).sum(-1)[0, chosen].mean()
    assert len(chosen) == 10
    assert good == pytest.approx(0.5 * entropy, abs=0.02)
    assert float(loss_of(logits, bins, targets((BOX, 0)))) > good + 1


def test_padding_changes_nothing():
    outputs = predictions()
    alone = loss_of(*outputs, targets((BOX, 1)))
    padded = loss_of(*outputs, targets((BOX, 1), ([0, 0, 0, 0], PADDING)))
    np.testing.assert_array_equal(alone, padded)


def test_points_in_a_crowd_are_not_trained_except_for_other_targets():
    crowd = [0.0, 0.0, 32.0, 32.0]
    logits, bins = predictions()
    changed = [x.copy() for x in logits]
    changed[0][0, 0, 0] = 5.0  # The point (4, 4) is far from any target.
    for rows, is_trained in (
        (((BOX, 1),), True),
        (((BOX, 1), (crowd, CROWD)), False),
        (((BOX, 1), (crowd, CROWD), ([0.0, 0, 10, 10], 0)), True),
    ):
        before, after = (loss_of(x, bins, targets(*rows)) for x in (logits, changed))
        assert (abs(float(before) - float(after)) > 1e-3) == is_trained, rows


@pytest.mark.parametrize(
    "wanted",
    [
        targets(([0, 0, 0, 0], PADDING)),
        targets((BOX, 0), ([30, 30, 30.5, 30.5], 1)),
        targets((BOX, CROWD)),
        targets(([-500, -500, 900, 900], 0)),
    ],
    ids=["no target", "a tiny target", "only a crowd", "a huge target"],
)
def test_gradients_are_finite_and_reach_all_logits(wanted):
    logits, bins = predictions()
    variables = [tf.Variable(x) for x in (*logits, *bins)]
    with tf.GradientTape() as tape:
        loss = loss_of(variables[:2], variables[2:], wanted)
    gradients = tape.gradient(loss, variables)
    assert np.isfinite(loss)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
    has_target = (wanted["classes"] >= 0).any()
    moved = [bool(np.abs(gradient).max() > 0) for gradient in gradients]
    assert any(moved[2:]) == has_target


def test_descending_the_gradient_finds_the_box():
    logits, bins = ([tf.Variable(x) for x in maps] for maps in predictions())
    optimizer = keras.optimizers.Adam(0.2)
    for _ in range(60):
        with tf.GradientTape() as tape:
            loss = loss_of(logits, bins, targets((BOX, 1)))
        variables = [*logits, *bins]
        optimizer.apply(tape.gradient(loss, variables), variables)
    scores = np.concatenate([x.numpy().reshape(-1, NUM_CLASSES) for x in logits])
    best = scores[:, 1].argmax()
    box = layers.BoxDecoder(STRIDES, NUM_BINS)(bins)[0, best]
    np.testing.assert_allclose(box, BOX, atol=1.5)
    assert scores[best, 1] > 0.5
    assert scores[:, 0].max() < -1
