import numpy as np
import pytest
from scipy.signal import correlate2d

from layers import ResidualBlock
from tests.layers.layer_contract import check_layer


@pytest.mark.parametrize(
    ("arguments", "output_shape", "weights"),
    [
        ({"filters": 4, "strides": 1}, (2, 9, 6, 4), 6),
        ({"filters": 8, "strides": 2}, (2, 5, 3, 8), 9),
    ],
    ids=["identity", "projection"],
)
def test_contract(arguments, output_shape, weights, tmp_path):
    check_layer(ResidualBlock, arguments, (2, 9, 6, 4), output_shape, tmp_path, weights)


def convolve(x, kernel, strides=1):
    """Cross-correlates each pair of channels, with zero padding."""
    full = np.stack(
        [
            sum(
                correlate2d(x[..., i], kernel[..., i, o], mode="same")
                for i in range(x.shape[-1])
            )
            for o in range(kernel.shape[-1])
        ],
        axis=-1,
    )
    # With stride 2 and odd sizes, "same" padding of TensorFlow also starts at pixel 0.
    return full[::strides, ::strides]


def randomize(layer, rng):
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * rng.choice([1, 1, -1]))
    for name in ("normalization_1", "normalization_2", "projection_normalization"):
        if hasattr(layer, name):
            variance = getattr(layer, name).moving_variance
            variance.assign(np.abs(variance))


def normalize(x, layer):
    scale = layer.gamma.numpy() / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    return (x - layer.moving_mean.numpy()) * scale + layer.beta.numpy()


@pytest.mark.parametrize(("filters", "strides"), [(3, 1), (2, 1), (4, 2)])
def test_matches_numpy(filters, strides):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 5, 3)).astype("float32")
    layer = ResidualBlock(filters, strides)
    layer.build((1, 7, 5, 3))
    randomize(layer, rng)

    inner = convolve(x, layer.convolution_1.kernel.numpy(), strides)
    inner = np.maximum(normalize(inner, layer.normalization_1), 0)
    inner = convolve(inner, layer.convolution_2.kernel.numpy())
    inner = normalize(inner, layer.normalization_2)
    shortcut = x
    if (filters, strides) != (3, 1):
        shortcut = x[::strides, ::strides] @ layer.projection.kernel.numpy()[0, 0]
        shortcut = normalize(shortcut, layer.projection_normalization)
    expected = np.maximum(inner + shortcut, 0)

    np.testing.assert_allclose(layer(x[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_training_uses_batch_statistics():
    x = np.random.default_rng(0).normal(5.0, 3.0, (4, 6, 6, 3)).astype("float32")
    layer = ResidualBlock(3)
    assert np.abs(layer(x, training=True) - layer(x, training=False)).max() > 0.1


@pytest.mark.parametrize("arguments", [{"filters": 0}, {"filters": 8, "strides": 1.5}])
def test_rejects_arguments_that_are_not_positive_whole_numbers(arguments):
    with pytest.raises(ValueError, match="positive whole number"):
        ResidualBlock(**arguments)
