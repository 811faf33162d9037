import numpy as np
import pytest
from scipy.special import log_softmax

from apps.sentiment_analysis.mixture import Mixture, choose_mixture


def make_logits(num_texts, quality, seed):
    """Returns labels and logits that favour them by so much."""
    labels = np.arange(num_texts) % 2
    logits = np.random.default_rng(seed).normal(size=(num_texts, 2))
    return labels, logits + quality * np.eye(2)[labels]


@pytest.mark.parametrize(
    ("network", "linear", "expected"), [(9, 0, 1.0), (0, 9, 0.0), (2, 2, 0.5)]
)
def test_the_better_branch_wins(network, linear, expected):
    labels, network_logits = make_logits(1000, network, seed=0)
    _, linear_logits = make_logits(1000, linear, seed=1)
    mixture = choose_mixture(network_logits, linear_logits, labels, np.ones(1000))
    assert mixture.network == expected


@pytest.mark.parametrize(("num_texts", "quality"), [(8, 9), (40, 0.5)])
def test_few_texts_do_not_choose_the_network(num_texts, quality):
    labels, network_logits = make_logits(num_texts, quality, seed=0)
    _, linear_logits = make_logits(num_texts, 0.3, seed=1)
    mixture = choose_mixture(network_logits, linear_logits, labels, np.ones(num_texts))
    assert mixture == Mixture(0.0, 1.0)


def test_the_temperature_follows_the_confidence():
    labels, logits = make_logits(2000, 2, seed=0)
    cold = choose_mixture(logits / 3, logits / 3, labels, np.ones(2000))
    hot = choose_mixture(4 * logits, 4 * logits, labels, np.ones(2000))
    assert cold.temperature < 1 < hot.temperature


def test_the_weights_of_the_texts_count():
    labels, good = make_logits(1000, 3, seed=0)
    _, bad = make_logits(1000, -3, seed=1)
    is_first = labels == 0
    network = np.where(is_first[:, None], good, bad)
    linear = np.where(is_first[:, None], bad, good)
    for counted, expected in ((is_first, 1.0), (~is_first, 0.0)):
        weights = np.where(counted, 1.0, 1e-3)
        assert choose_mixture(network, linear, labels, weights).network == expected


def test_the_mixture_is_of_log_probabilities():
    _, network = make_logits(4, 1, seed=0)
    _, linear = make_logits(4, 1, seed=1)
    np.testing.assert_allclose(
        Mixture(0.25, 2.0).logits(network, linear + 5),
        (0.25 * log_softmax(network, 1) + 0.75 * log_softmax(linear, 1)) / 2,
    )
