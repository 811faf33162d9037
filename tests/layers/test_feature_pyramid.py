import keras
import numpy as np
import pytest
from scipy.signal import correlate2d

from apps.common import saved_models
from layers import FeaturePyramid
from tests.layers.layer_contract import check_layer

RNG = np.random.default_rng(0)
SHAPES = [(2, 9, 6, 5), (2, 5, 3, 4), (2, 3, 2, 3)]


@pytest.mark.parametrize("bottom_up", [False, True])
def test_contract(bottom_up, tmp_path):
    check_layer(
        FeaturePyramid,
        {"filters": 4, "bottom_up": bottom_up},
        SHAPES,
        [(*shape[:-1], 4) for shape in SHAPES],
        tmp_path,
        trainable_weights=3 * (2 * 3 + (2 * 2 if bottom_up else 0)),
    )


def convolve(x, kernel, strides=1):
    """Convolves one map with 3×3 kernels, padded as TensorFlow pads."""
    maps = [
        sum(
            correlate2d(x[..., i], kernel[..., i, o], mode="same")
            for i in range(x.shape[-1])
        )
        for o in range(kernel.shape[-1])
    ]
    # With stride 2, TensorFlow pads even sizes at the end only.
    start = [(size + 1) % 2 if strides == 2 else 0 for size in x.shape[:2]]
    return np.stack(maps, axis=-1)[start[0] :: strides, start[1] :: strides]


def resize(x, height, width):
    """Nearest neighbour: the cell in which the centre of the new cell lies."""
    rows = [int((i + 0.5) * x.shape[0] / height) for i in range(height)]
    columns = [int((i + 0.5) * x.shape[1] / width) for i in range(width)]
    return x[rows][:, columns]


class Reference:
    """The pyramid of one image in NumPy, with the weights of a layer in order."""

    def __init__(self, layer):
        network = layer.network
        kinds = (keras.layers.Conv2D, keras.layers.BatchNormalization)
        self.layers = {x.name: x for x in network.layers if isinstance(x, kinds)}
        # Each convolution is followed by its normalization.
        self.following = {
            x.input._keras_history.operation.name: x
            for x in network.layers
            if isinstance(x, keras.layers.BatchNormalization)
        }

    def apply(self, name, x, strides=1):
        """Applies one convolution and its normalization."""
        kernel = self.layers[name].kernel.numpy()
        x = x @ kernel[0, 0] if kernel.shape[0] == 1 else convolve(x, kernel, strides)
        layer = self.following[name]
        scale = layer.gamma.numpy() / np.sqrt(layer.moving_variance.numpy() + 1e-3)
        return (x - layer.moving_mean.numpy()) * scale + layer.beta.numpy()

    def __call__(self, maps, bottom_up):
        p = [self.apply(f"lateral_{i}", x) for i, x in enumerate(maps)]
        p[1] = p[1] + resize(p[2], *p[1].shape[:2])
        p[0] = p[0] + resize(p[1], *p[0].shape[:2])
        p = [np.maximum(self.apply(f"down_{i}", x), 0) for i, x in enumerate(p)]
        if not bottom_up:
            return p
        n = [p[0]]
        for i in (1, 2):
            down = np.maximum(self.apply(f"stride_{i}", n[-1], strides=2), 0)
            n.append(np.maximum(self.apply(f"up_{i}", down + p[i]), 0))
        return n


def randomize(model):
    for weight in model.weights:
        weight.assign(RNG.uniform(0.5, 1.5, weight.shape) * RNG.choice([1, 1, -1]))
        if "variance" in weight.path:
            weight.assign(np.abs(weight))


@pytest.mark.parametrize("bottom_up", [False, True])
def test_matches_numpy(bottom_up):
    layer = FeaturePyramid(4, bottom_up=bottom_up)
    layer.build(SHAPES)
    randomize(layer)
    maps = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
    expected = Reference(layer)([x[0] for x in maps], bottom_up)
    for answer, reference in zip(layer(maps), expected, strict=True):
        np.testing.assert_allclose(answer[0], reference, rtol=1e-4, atol=1e-3)


def test_batch_normalization_folds_into_its_convolutions():
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(5, 3, 2, padding="same")(images)
    y = keras.layers.Conv2D(6, 3, 2, padding="same")(x)
    for name in ("first", "second"):  # Two pyramids share no names.
        x, y = FeaturePyramid(4, bottom_up=True, name=name)([x, y])
    model = keras.Model(images, [x, y])
    randomize(model)

    folded = saved_models.fold_batch_normalization(model)

    assert not [
        layer
        for layer in folded._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    x = RNG.normal(size=(2, 9, 7, 3)).astype("float32")
    for answer, expected in zip(folded(x), model(x), strict=True):
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("filters", [0, 2.5])
def test_rejects_filters_that_are_no_positive_whole_number(filters):
    with pytest.raises(ValueError, match=f"filters=96. Received: filters={filters}"):
        FeaturePyramid(filters)
