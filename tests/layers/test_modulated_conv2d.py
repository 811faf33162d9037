import numpy as np
import pytest
from scipy.signal import correlate2d

from layers import ModulatedConv2D
from tests.layers.layer_contract import check_layer


@pytest.mark.parametrize(
    "arguments",
    [{"filters": 4}, {"filters": 3, "kernel_size": 1, "demodulate": False}],
    ids=["demodulated", "colours"],
)
def test_contract(arguments, tmp_path):
    shapes, output_shape = [(2, 9, 6, 5), (2, 7)], (2, 9, 6, arguments["filters"])
    check_layer(ModulatedConv2D, arguments, shapes, output_shape, tmp_path, 4)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_matches_a_kernel_for_each_example(kernel_size, demodulate):
    """The paper scales the kernel, the layer scales inputs and outputs."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 7, 5, 4)).astype("float32")
    latents = rng.normal(size=(3, 6)).astype("float32")
    layer = ModulatedConv2D(2, kernel_size, demodulate)
    layer.build([maps.shape, latents.shape])
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    kernel, bias, style_kernel, style_bias = (each.numpy() for each in layer.weights)

    expected = np.empty((3, 7, 5, 2))
    for i in range(3):
        scale = latents[i] @ style_kernel + style_bias
        scaled = kernel * scale[:, None]
        if demodulate:
            scaled /= np.sqrt((scaled**2).sum(axis=(0, 1, 2)))
        for o in range(2):
            expected[i, ..., o] = bias[o] + sum(
                correlate2d(maps[i, ..., c], scaled[..., c, o], mode="same")
                for c in range(4)
            )
    np.testing.assert_allclose(layer([maps, latents]), expected, rtol=1e-4, atol=1e-4)


def test_demodulation_ignores_the_scale_of_the_kernel():
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, 4, 4, 3)), rng.normal(size=(1, 5))]
    layer = ModulatedConv2D(2)
    before = layer(inputs).numpy()
    layer.kernel.assign(10 * layer.kernel)
    np.testing.assert_allclose(layer(inputs), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments", [{"filters": 0}, {"filters": 8, "kernel_size": 1.5}]
)
def test_rejects_arguments_that_are_not_positive_whole_numbers(arguments):
    with pytest.raises(ValueError, match="positive whole number"):
        ModulatedConv2D(**arguments)
