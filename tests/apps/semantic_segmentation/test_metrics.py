import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from apps.semantic_segmentation.metrics import (
    Agreement,
    boundary_band,
    class_iou,
)


def random_masks(seed, num_classes=4):
    """Returns a mask of coarse blocks, partly unlabelled, and a similar prediction."""
    random = np.random.default_rng(seed)
    mask = random.integers(0, num_classes, (4, 5)).astype("uint8")
    mask = mask.repeat(9, axis=0).repeat(8, axis=1)
    prediction = np.where(random.random(mask.shape) < 0.7, mask, mask[::-1])
    mask[random.random(mask.shape) < 0.1] = 255
    mask[:5] = 255
    return mask, prediction


def brute_band(mask, width=5):
    """Computes `boundary_band` from the distance of every pair of pixels."""
    height, columns = mask.shape
    boundary = set()
    for y in range(height):
        for x in range(columns):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < height and u < columns and 255 not in (mask[y, x], mask[v, u]):
                    boundary |= {(y, x), (v, u)} if mask[y, x] != mask[v, u] else set()
    band = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(mask.shape):
        band[y, x] = any((y - v) ** 2 + (x - u) ** 2 < width**2 for v, u in boundary)
    return band


@pytest.mark.parametrize("seed", [0, 1])
def test_the_boundary_band_equals_brute_force(seed):
    mask = random_masks(seed)[0]
    band = boundary_band(mask)
    assert 0.2 < band.mean() < 1
    np.testing.assert_array_equal(band, brute_band(mask))
    np.testing.assert_array_equal(boundary_band(mask, width=2), brute_band(mask, 2))


def test_unlabelled_pixels_have_no_boundary():
    mask = np.zeros((20, 20), "uint8")
    assert not boundary_band(mask).any()
    mask[:, 10:] = 255
    assert not boundary_band(mask).any()
    mask[:, 10:] = 7
    assert boundary_band(mask)[0].tolist() == [5 <= x < 15 for x in range(20)]


def test_metrics_equal_those_of_scikit_learn():
    agreement = Agreement(4)
    pairs = [random_masks(seed) for seed in range(3)]
    for mask, prediction in pairs:
        agreement.add(mask, prediction)

    def labels_and_predictions(choose):
        chosen = [choose(mask) & (mask != 255) for mask, _ in pairs]
        return [
            np.concatenate(
                [pair[i][here] for pair, here in zip(pairs, chosen, strict=True)]
            )
            for i in (0, 1)
        ]

    everywhere = labels_and_predictions(lambda mask: True)
    iou = jaccard_score(*everywhere, average=None)
    np.testing.assert_allclose(class_iou(agreement.confusion), iou)
    summary = agreement.summary()
    assert summary["mean_iou"] == pytest.approx(iou.mean())
    assert summary["pixel_accuracy"] == pytest.approx(accuracy_score(*everywhere))
    near = labels_and_predictions(brute_band)
    assert len(near[0]) < len(everywhere[0])
    expected = jaccard_score(*near, average="macro")
    assert summary["boundary_score"] == pytest.approx(expected)


def test_absent_classes_are_nan_and_do_not_count():
    agreement = Agreement(5)
    mask = np.array([[0, 0, 3, 3], [0, 0, 3, 255]], "uint8")
    prediction = np.array([[0, 0, 3, 1], [0, 0, 3, 2]], "uint8")
    agreement.add(mask, prediction)
    # Class 1 was predicted wrongly, class 2 only for an unlabelled pixel.
    iou = class_iou(agreement.confusion)
    np.testing.assert_allclose(iou, [1, 0, np.nan, 2 / 3, np.nan])
    assert agreement.summary()["mean_iou"] == pytest.approx(5 / 9)
    assert agreement.summary()["pixel_accuracy"] == pytest.approx(6 / 7)


def test_the_boundary_score_is_1_without_boundaries():
    agreement = Agreement(2)
    agreement.add(np.zeros((4, 4), "uint8"), np.ones((4, 4), "uint8"))
    assert agreement.summary() == {
        "mean_iou": 0,
        "pixel_accuracy": 0,
        "boundary_score": 1,
    }
