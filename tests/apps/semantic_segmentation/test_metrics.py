import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from apps.semantic_segmentation.metrics import Agreement, boundary_band


def random_masks(seed, classes=4):
    """A right mask of coarse blocks with some void, and an answer mostly like it."""
    random = np.random.default_rng(seed)
    mask = random.integers(0, classes, (4, 5)).astype("uint8")
    mask = mask.repeat(9, axis=0).repeat(8, axis=1)
    answer = np.where(random.random(mask.shape) < 0.7, mask, mask[::-1])
    mask[random.random(mask.shape) < 0.1] = 255
    mask[:5] = 255
    return mask, np.where(answer == 255, 0, answer)


def brute_band(mask, void=255, width=5):
    height, columns = mask.shape
    edge = []
    for y in range(height):
        for x in range(columns):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < height and u < columns and void not in (mask[y, x], mask[v, u]):
                    edge += [(y, x), (v, u)] if mask[y, x] != mask[v, u] else []
    near = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(mask.shape):
        near[y, x] = any((y - v) ** 2 + (x - u) ** 2 < width**2 for v, u in set(edge))
    return near


@pytest.mark.parametrize("seed", [0, 1])
def test_the_band_is_what_measuring_every_distance_gives(seed):
    mask = random_masks(seed)[0]
    band = boundary_band(mask)
    assert 0.2 < band.mean() < 1
    np.testing.assert_array_equal(band, brute_band(mask))
    np.testing.assert_array_equal(
        boundary_band(mask, width=2), brute_band(mask, 255, 2)
    )


def test_void_has_no_boundary():
    mask = np.zeros((20, 20), "uint8")
    mask[:, 10:] = 255
    assert not boundary_band(mask).any()
    assert not boundary_band(np.zeros((20, 20), "uint8")).any()
    mask[:, 10:] = 7
    assert boundary_band(mask)[0].tolist() == [5 <= x < 15 for x in range(20)]
    assert not boundary_band(mask, void=7).any()


def test_agreement_is_what_scikit_learn_computes():
    total = Agreement(4)
    pairs = [random_masks(seed) for seed in range(3)]
    for mask, answer in pairs:
        total.add(mask, answer)

    def joined(choose):
        chosen = [choose(mask) for mask, _ in pairs]
        right = [mask[here] for (mask, _), here in zip(pairs, chosen, strict=True)]
        given = [answer[here] for (_, answer), here in zip(pairs, chosen, strict=True)]
        return np.concatenate(right), np.concatenate(given)

    everywhere = joined(lambda mask: mask != 255)
    iou = jaccard_score(*everywhere, average=None)
    np.testing.assert_allclose(total.class_iou, iou, rtol=1e-5)
    summary = total.summary()
    assert summary["mean_iou"] == pytest.approx(iou.mean(), abs=1e-5)
    assert summary["pixel_accuracy"] == pytest.approx(accuracy_score(*everywhere))
    near = joined(lambda mask: brute_band(mask) & (mask != 255))
    assert len(near[0]) < len(everywhere[0])
    expected = jaccard_score(*near, average="macro")
    assert summary["boundary_score"] == pytest.approx(expected, abs=1e-5)


def test_absent_classes_are_nan_and_do_not_count():
    total = Agreement(5)
    mask = np.array([[0, 0, 3, 3], [0, 0, 3, 255]], "uint8")
    answer = np.array([[0, 0, 3, 1], [0, 0, 3, 2]], "uint8")
    total.add(mask, answer)
    # Class 1 was answered wrongly, class 2 only where nobody knows.
    np.testing.assert_allclose(total.class_iou, [1, 0, np.nan, 2 / 3, np.nan])
    assert total.summary()["mean_iou"] == pytest.approx(5 / 9, abs=1e-5)
    assert total.summary()["pixel_accuracy"] == pytest.approx(6 / 7)


def test_another_number_may_be_void():
    total = Agreement(2, void=9)
    total.add(np.array([[0, 1, 9]], "uint8"), np.array([[0, 0, 1]], "uint8"))
    np.testing.assert_allclose(total.class_iou, [1 / 2, 0])
