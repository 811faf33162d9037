import numpy as np
import pytest
from scipy.signal import correlate2d

from layers import AtrousSpatialPyramidPooling
from tests.layers.layer_contract import check_layer


def test_contract(tmp_path):
    check_layer(
        AtrousSpatialPyramidPooling,
        {"filters": 4, "rates": (1, 3)},
        (2, 9, 6, 5),
        (2, 9, 6, 4),
        tmp_path,
        trainable_weights=3 * 5 + 2 * 3,
    )


def normalize(x, layer):
    """Applies batch normalization and ReLU."""
    scale = layer.gamma.numpy() / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    return np.maximum((x - layer.moving_mean.numpy()) * scale + layer.beta.numpy(), 0)


def pointwise(x, sequential):
    convolution, normalization, _ = sequential.layers[-3:]
    return normalize(x @ convolution.kernel.numpy()[0, 0], normalization)


def dilate(kernel, rate):
    """Inserts zeros between the elements of a 3×3 kernel."""
    wide = np.zeros((2 * rate + 1, 2 * rate + 1))
    wide[::rate, ::rate] = kernel
    return wide


def test_matches_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 7, 3)).astype("float32")
    layer = AtrousSpatialPyramidPooling(4, rates=(1, 2))
    layer.build((1, 8, 7, 3))
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * rng.choice([1, 1, -1]))
        if "variance" in weight.path:
            weight.assign(np.abs(weight))

    branches = [pointwise(x, layer.branches[0])]
    for rate, branch in zip((1, 2), layer.branches[1:], strict=True):
        depthwise, normalization, _, inner = branch.layers
        kernel = depthwise.kernel.numpy()[..., 0]
        maps = [
            correlate2d(x[..., i], dilate(kernel[..., i], rate), mode="same")
            for i in range(3)
        ]
        branches.append(pointwise(normalize(np.stack(maps, -1), normalization), inner))
    context = pointwise(x.mean(axis=(0, 1)), layer.pooling)
    branches.append(np.broadcast_to(context, (8, 7, 4)))
    expected = pointwise(np.concatenate(branches, axis=-1), layer.projection)

    np.testing.assert_allclose(layer(x[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_active_only_in_training():
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    layer = AtrousSpatialPyramidPooling(64, dropout=0.5)
    assert (layer(x, training=True).numpy() == 0).mean() > 0.6
    np.testing.assert_array_equal(layer(x), layer(x))


@pytest.mark.parametrize(
    "arguments", [{"filters": 0}, {"filters": 8, "rates": (6, 1.5)}]
)
def test_rejects_arguments_that_are_not_positive_whole_numbers(arguments):
    with pytest.raises(ValueError, match="positive whole numbers"):
        AtrousSpatialPyramidPooling(**arguments)
