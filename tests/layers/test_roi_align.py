import numpy as np
import pytest
import tensorflow as tf

from layers import RoIAlign
from tests.layers.layer_contract import check_layer

RNG = np.random.default_rng(0)


def test_contract(tmp_path):
    check_layer(
        RoIAlign,
        {"strides": (0.05, 0.1), "size": 3, "sampling_ratio": 2},
        [(2, 9, 6, 5), (2, 5, 3, 5), (2, 7, 4)],
        (2, 7, 3, 3, 5),
        tmp_path,
    )


def interpolate(features, y, x):
    """Samples one map bilinearly, by the rules of torchvision's `roi_align`."""
    height, width, channels = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(channels)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    return (
        features[top, left] * (1 - down) * (1 - along)
        + features[top, right] * (1 - down) * along
        + features[bottom, left] * down * (1 - along)
        + features[bottom, right] * down * along
    )


def pool(features, box, size, ratio):
    """Pools one box, in cells of the map, sample by sample."""
    x1, y1, x2, y2 = box
    bin_height, bin_width = (y2 - y1) / size, (x2 - x1) / size
    pooled = np.zeros((size, size, features.shape[-1]))
    for row in range(size):
        for column in range(size):
            for i in range(ratio):
                for j in range(ratio):
                    y = y1 + (row + (i + 0.5) / ratio) * bin_height - 0.5
                    x = x1 + (column + (j + 0.5) / ratio) * bin_width - 0.5
                    pooled[row, column] += interpolate(features, y, x) / ratio**2
    return pooled


def level_of(box, strides, size):
    """The rule of feature pyramids, with 224 pixels on stride 16 for a size of 7."""
    side = np.sqrt(np.prod(np.maximum(box[2:] - box[:2], 1e-9)))
    stride = 2 ** np.floor(np.log2(side / (2 * size)))
    return list(strides).index(np.clip(stride, strides[0], strides[-1]))


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4])
def test_matches_numpy(size, ratio):
    strides = (2, 4, 8)
    maps = [
        RNG.normal(size=(2, 48 // s, 64 // s, 3)).astype("float32") for s in strides
    ]
    corners = RNG.uniform(-20, 130, (2, 40, 2, 2))  # Some lie outside the maps.
    boxes = np.sort(corners, axis=2).reshape(2, 40, 4).astype("float32")
    boxes[0, 0] = [10, 10, 10, 10]  # An empty box.
    levels = [level_of(box, strides, size) for box in boxes.reshape(-1, 4)]
    assert set(levels) >= ({2} if size == 1 else {0, 1, 2})

    pooled = RoIAlign(strides, size, ratio)([*maps, boxes]).numpy()

    for image in range(2):
        for i, box in enumerate(boxes[image]):
            level = levels[image * 40 + i]
            features = maps[level][image]
            expected = pool(features, box / strides[level], size, ratio)
            np.testing.assert_allclose(pooled[image, i], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "stride"), [(20, 4), (111.9, 4), (112, 8), (224, 16), (448, 32), (900, 32)]
)
def test_a_box_of_224_pixels_is_pooled_from_stride_16(side, stride):
    strides = (4, 8, 16, 32)
    maps = [np.full((1, 1024 // s, 1024 // s, 1), s, "float32") for s in strides]
    box = np.array([[[0, 0, side, side]]], "float32")
    pooled = RoIAlign(strides)([*maps, box])
    np.testing.assert_allclose(pooled, np.full((1, 1, 7, 7, 1), stride), rtol=1e-6)


def test_gradients_match_finite_differences():
    layer = RoIAlign((1, 2), size=2, dtype="float64")
    maps = [RNG.normal(size=(1, n, n, 2)) for n in (6, 3)]
    # No sample lies on the centre of a cell, where the interpolation has a kink.
    boxes = np.array([[[0.6, 0.8, 3.1, 3.5], [0.3, 0.4, 5.2, 5.6]]], "float32")
    factors = RNG.normal(size=(1, 2, 2, 2, 2))

    def loss(*inputs):
        return tf.reduce_sum(layer(list(inputs)) * factors)

    for i, step in ((0, 1e-4), (1, 1e-4), (2, 1e-2)):
        inputs = [*maps, boxes]
        with tf.GradientTape() as tape:
            variable = tf.Variable(inputs[i])
            inputs[i] = variable
            value = loss(*inputs)
        gradient = tape.gradient(value, variable).numpy()
        for index in np.ndindex(*gradient.shape):
            moved = []
            for sign in (1, -1):
                inputs[i] = variable.numpy()
                inputs[i][index] += sign * step
                moved.append(float(loss(*inputs)))
            difference = (moved[0] - moved[1]) / (2 * step)
            np.testing.assert_allclose(gradient[index], difference, atol=2e-3)


def test_half_precision_rounds_no_boxes():
    features = np.zeros((1, 1, 512, 1), "float32")
    features[..., 500, :] = 1
    boxes = np.array([[[2001.1, 0, 2001.3, 4]]], "float32")  # Rounded, 2001.
    pooled = RoIAlign((4,), size=1, dtype="mixed_float16")([features, boxes])
    expected = 2001.2 / 4 - 0.5 - 499
    np.testing.assert_allclose(pooled.numpy().ravel(), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": (8,), "size": 0}, "`size` must be a positive whole number"),
        ({"strides": (8,), "sampling_ratio": 1.5}, "`sampling_ratio` must be"),
        ({"strides": ()}, "`strides` must be positive and ascending"),
        ({"strides": (0, 8)}, "`strides` must be positive and ascending"),
        ({"strides": (16, 8)}, "`strides` must be positive and ascending"),
    ],
)
def test_rejects_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RoIAlign(**arguments)


def test_rejects_another_number_of_maps():
    with pytest.raises(ValueError, match="one map for each of the strides"):
        RoIAlign((8, 16))([np.zeros((1, 8, 8, 2)), np.zeros((1, 3, 4))])
