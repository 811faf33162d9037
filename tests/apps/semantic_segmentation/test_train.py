import numpy as np
import pytest

from apps.semantic_segmentation.train import balanced_cross_entropy, class_weights


def test_the_loss_equals_numpy():
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (2, 5, 6, 4)).astype("float32")
    labels = random.integers(0, 4, (2, 5, 6)).astype("int32")
    labels[:, 2] = 255
    weights = np.array([0.5, 2.0, 0.0, 1.5])
    is_labelled = labels != 255
    scores = logits[is_labelled].astype("float64")
    losses = (
        np.log(np.exp(scores).sum(axis=-1)) - scores[range(48), labels[is_labelled]]
    )
    expected = np.average(losses, weights=weights[labels[is_labelled]])
    loss = balanced_cross_entropy(weights)
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-5)
    # The logits of unlabelled pixels do not matter.
    logits[~is_labelled] += 100 * random.normal(size=(12, 4))
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_without_labelled_pixels_is_0():
    labels = np.full((1, 4, 4), 255, "int32")
    logits = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype("float32")
    assert float(balanced_cross_entropy(np.ones(3))(labels, logits)) == 0


COUNTS = np.array([900, 90, 0, 10])


@pytest.mark.parametrize("balance", [0, 0.25, 0.5, 1])
def test_the_mean_weight_over_all_pixels_is_1(balance):
    weights = class_weights(COUNTS, balance)
    assert np.average(weights, weights=COUNTS) == pytest.approx(1)
    assert weights[2] == 0  # The class has no pixels.
    assert weights[3] / weights[0] == pytest.approx(90**balance)


def test_balance_0_weights_all_pixels_equally_and_1_all_classes():
    np.testing.assert_allclose(class_weights(COUNTS, 0), [1, 1, 0, 1])
    np.testing.assert_allclose(
        COUNTS * class_weights(COUNTS, 1) * 3, [1000, 1000, 0, 1000]
    )
