import numpy as np
import pytest

from layers import BoxDecoder
from tests.layers.layer_contract import check_layer

RNG = np.random.default_rng(0)
STRIDES = (4, 8)
SHAPES = [(2, 5, 3, 24), (2, 3, 2, 24)]
NUM_POINTS = 5 * 3 + 3 * 2


def test_contract(tmp_path):
    check_layer(
        BoxDecoder,
        {"strides": STRIDES, "num_bins": 6},
        SHAPES,
        (2, NUM_POINTS, 4),
        tmp_path,
    )


def decode(maps, num_bins):
    """Decodes the boxes of one image, cell by cell."""
    boxes = []
    for logits, stride in zip(maps, STRIDES, strict=True):
        height, width, _ = logits.shape
        for row in range(height):
            for column in range(width):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                sides = []
                for bins in np.split(logits[row, column], 4):
                    probabilities = np.exp(bins) / np.exp(bins).sum()
                    cells = sum(k * probabilities[k] for k in range(num_bins))
                    sides.append(cells * stride)
                left, top, right, bottom = sides
                boxes.append([x - left, y - top, x + right, y + bottom])
    return np.array(boxes)


def test_matches_numpy():
    maps = [RNG.normal(size=shape).astype("float32") * 2 for shape in SHAPES]
    boxes = BoxDecoder(STRIDES, 6)(maps)
    for image in range(2):
        expected = decode([x[image] for x in maps], 6)
        np.testing.assert_allclose(boxes[image], expected, rtol=1e-5, atol=1e-4)


def to_bins(distances, num_bins):
    """Returns logits whose distribution lies on the two bins beside each distance."""
    lower = np.floor(distances).astype(int)
    upper_weight = distances - lower
    logits = np.full((*distances.shape, num_bins), -100.0)
    np.put_along_axis(logits, lower[..., None], np.log(1 - upper_weight)[..., None], -1)
    upper = np.log(np.maximum(upper_weight, 1e-9))
    np.put_along_axis(logits, lower[..., None] + 1, upper[..., None], -1)
    return logits


def test_encoded_boxes_decode_to_the_same_boxes():
    decoder = BoxDecoder(STRIDES, num_bins=8)
    maps = [np.zeros((1, 8, 8, 32)), np.zeros((1, 4, 4, 32))]
    points, strides = map(np.asarray, decoder.points(maps))
    # Boxes of which each holds its point and is up to 7 cells away on each side.
    reach = RNG.uniform(0, 6.9, (1, 80, 4)) * strides[:, None]
    boxes = np.concatenate([points - reach[..., :2], points + reach[..., 2:]], -1)

    distances = np.asarray(decoder.encode(boxes.astype("float32"), points, strides))

    np.testing.assert_allclose(distances, reach / strides[:, None], atol=1e-4)
    logits = to_bins(distances, 8).reshape(1, 80, 32)
    maps = [logits[:, :64].reshape(1, 8, 8, 32), logits[:, 64:].reshape(1, 4, 4, 32)]
    np.testing.assert_allclose(decoder(maps), boxes, rtol=1e-4, atol=1e-2)


def test_distances_are_clipped_to_the_bins():
    decoder = BoxDecoder((4,), num_bins=8)
    points, strides = np.array([[10.0, 10.0]]), np.array([4.0])
    boxes = np.array([[[12.0, -90.0, 14.0, 22.0]]])
    distances = decoder.encode(boxes, points, strides)
    np.testing.assert_allclose(distances, [[[0, 6.99, 1, 3]]], rtol=1e-6)


def test_points_are_the_centres_of_the_cells():
    maps = [np.zeros((1, 2, 3, 1)), np.zeros((1, 1, 2, 1))]
    points, strides = BoxDecoder(STRIDES).points(maps)
    expected = [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6], [4, 4], [12, 4]]
    np.testing.assert_array_equal(points, expected)
    np.testing.assert_array_equal(strides, [4] * 6 + [8] * 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": ()}, "`strides` must be positive numbers"),
        ({"strides": (8, 0)}, "`strides` must be positive numbers"),
        ({"strides": (8,), "num_bins": 1}, "`num_bins` must be a whole number"),
        ({"strides": (8,), "num_bins": 4.0}, "`num_bins` must be a whole number"),
    ],
)
def test_rejects_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BoxDecoder(**arguments)


@pytest.mark.parametrize(
    "shapes", [SHAPES[:1], [*SHAPES, (2, 2, 1, 24)], [(1, 5, 3, 20)] * 2]
)
def test_rejects_other_maps(shapes):
    with pytest.raises(ValueError, match="one map for each of the strides"):
        BoxDecoder(STRIDES, 6)([np.zeros(shape) for shape in shapes])
