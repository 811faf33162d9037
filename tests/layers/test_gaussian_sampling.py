import numpy as np

from layers import GaussianSampling
from tests.layers.layer_contract import check_layer


def test_contract(tmp_path):
    shapes = [(3, 5), (3, 5)]
    check_layer(GaussianSampling, {"seed": 1}, shapes, (3, 5), tmp_path)


def test_samples_have_the_mean_and_the_variance():
    means = np.linspace(-3, 3, 5, dtype="float32")
    log_variances = np.linspace(-4, 2, 5, dtype="float32")
    inputs = [np.tile(row, (20_000, 1)) for row in (means, log_variances)]
    samples = GaussianSampling(seed=0)(inputs, training=True).numpy()
    deviations = np.sqrt(np.exp(log_variances))
    np.testing.assert_allclose(samples.mean(0), means, atol=0.03 * deviations.max())
    np.testing.assert_allclose(samples.std(0), deviations, rtol=0.03)


def test_each_call_draws_anew():
    inputs = [np.zeros((2, 4)), np.zeros((2, 4))]
    layer = GaussianSampling(seed=0)
    first, second = (layer(inputs, training=True).numpy() for _ in range(2))
    assert (first != second).all()
    again = GaussianSampling(seed=0)(inputs, training=True)
    np.testing.assert_array_equal(again, first)


def test_without_training_the_mean_is_returned():
    means = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    np.testing.assert_array_equal(GaussianSampling()([means, means + 3]), means)
