import numpy as np

from layers import MinibatchStandardDeviation
from tests.layers.layer_contract import check_layer


def test_contract(tmp_path):
    shape, output_shape = (4, 5, 3, 2), (4, 5, 3, 4)
    check_layer(MinibatchStandardDeviation, {}, shape, output_shape, tmp_path)


def test_matches_numpy():
    x = np.random.default_rng(0).normal(2.0, 3.0, (6, 4, 3, 5)).astype("float32")
    outputs = MinibatchStandardDeviation()(x).numpy()
    np.testing.assert_array_equal(outputs[..., :5], x)
    expected = np.broadcast_to(x.std(axis=0).mean(axis=(0, 1)), x.shape)
    np.testing.assert_allclose(outputs[..., 5:], expected, rtol=1e-5)


def test_like_images_have_no_deviation():
    x = np.tile(np.random.default_rng(0).normal(size=(1, 4, 4, 2)), (3, 1, 1, 1))
    outputs = MinibatchStandardDeviation()(x).numpy()
    np.testing.assert_allclose(outputs[..., 2:], 0, atol=2e-3)
