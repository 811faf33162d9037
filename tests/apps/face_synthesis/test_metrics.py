import numpy as np
import pytest
import scipy.linalg

from apps.face_synthesis import metrics

RANDOM = np.random.default_rng(0)


def features(number, size, shift=0.0):
    """Returns features whose dimensions depend on one another."""
    mixing = np.random.default_rng(1).normal(size=(size, size))
    return RANDOM.normal(shift, 1, (number, size)) @ mixing


def frechet_by_sqrtm(first, second):
    """The formula as it is usually computed."""
    means = [each.mean(axis=0) for each in (first, second)]
    covariances = [np.cov(each, rowvar=False) for each in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = np.square(means[0] - means[1]).sum()
    return shift + np.trace(covariances[0] + covariances[1] - 2 * root)


@pytest.mark.parametrize(("sizes", "shift"), [((300, 200), 0.3), ((90, 400), 0)])
def test_the_frechet_distance_is_that_of_sqrtm(sizes, shift):
    first, second = features(sizes[0], 24), features(sizes[1], 24, shift)
    distance = metrics.frechet_distance(first, second)
    assert distance == pytest.approx(frechet_by_sqrtm(first, second), rel=1e-6)
    assert distance > 1


def test_the_frechet_distance_takes_fewer_examples_than_features():
    first, second = features(20, 32), features(15, 32)
    # A little noise keeps the product of both covariances invertible for sqrtm.
    covariances = [np.cov(each, rowvar=False) for each in (first, second)]
    roots = [scipy.linalg.sqrtm(each + 1e-10 * np.eye(32)).real for each in covariances]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    expected = np.square(first.mean(0) - second.mean(0)).sum() - 2 * overlap
    expected += np.trace(covariances[0]) + np.trace(covariances[1])
    distance = metrics.frechet_distance(first, second)
    assert distance == pytest.approx(expected, abs=1e-3)


def test_the_frechet_distance_of_the_same_features_is_0():
    some = features(100, 8).astype("float32")
    assert metrics.frechet_distance(some, some) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(some, some + 2) == pytest.approx(32, rel=1e-5)


def test_the_kernel_distance_is_the_unbiased_estimate():
    first, second = features(12, 3), features(9, 3, 0.5)
    metrics_size = 9

    def kernel(x, y):
        return (np.dot(x, y) / 3 + 1) ** 3

    random, values = np.random.default_rng(0), []
    for _ in range(metrics.NUM_SUBSETS):
        x = first[random.choice(12, metrics_size, replace=False)]
        y = second[random.choice(9, metrics_size, replace=False)]
        pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
        same = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs])
        other = np.mean([kernel(a, b) for a in x for b in y])
        values.append(same - 2 * other)
    assert metrics.kernel_distance(first, second) == pytest.approx(np.mean(values))


def test_the_kernel_distance_of_one_distribution_is_about_0():
    first, second, far = features(400, 4), features(400, 4), features(400, 4, 1)
    assert abs(metrics.kernel_distance(first, second)) < 1
    assert metrics.kernel_distance(first, far) > 3


def neighbour_scores_by_loops(real, drawn, k):
    """The definitions, face by face."""

    def radius(point, points):
        return sorted(np.linalg.norm(points - point, axis=1))[k]

    inside = np.array(
        [[np.linalg.norm(r - d) <= radius(r, real) for d in drawn] for r in real]
    )
    around = np.array(
        [[np.linalg.norm(r - d) <= radius(d, drawn) for d in drawn] for r in real]
    )
    return {
        "precision": inside.any(axis=0).mean(),
        "recall": around.any(axis=1).mean(),
        "density": inside.sum(axis=0).mean() / k,
        "coverage": inside.any(axis=1).mean(),
    }


def test_neighbour_scores_follow_their_definitions():
    real, drawn = features(25, 3), features(20, 3, 1.5)
    expected = neighbour_scores_by_loops(real, drawn, metrics.NUM_NEIGHBOURS)
    found = metrics.neighbour_scores(real, drawn)
    assert found == {name: pytest.approx(value) for name, value in expected.items()}
    assert all(0 < value < 1 for name, value in found.items() if name != "density")


def test_neighbour_scores_of_copies_and_of_others():
    real = features(60, 3)
    copies = metrics.neighbour_scores(real, real)
    assert copies["precision"] == copies["recall"] == copies["coverage"] == 1
    one = metrics.neighbour_scores(real, np.repeat(real[:1], 30, axis=0))
    assert one["precision"] == 1
    assert one["recall"] < 0.1
    far = metrics.neighbour_scores(real, real + 100)
    assert set(far.values()) == {0}


@pytest.mark.parametrize("number", [1, 2])
def test_few_faces_are_scored(number):
    scores = metrics.score(features(5, 6), features(number, 6))
    assert all(np.isfinite(value) for value in scores.values())


def test_a_classifier_learns_from_labelled_faces():
    known = features(80, 5)
    labels = (known[:, 0] > 0).astype(int)
    labels[::7] = -1
    classify = metrics.fit_classifier(known, labels)
    others = features(50, 5)
    assert np.mean(classify(others) == (others[:, 0] > 0)) > 0.85


@pytest.fixture(scope="module")
def installed():
    return metrics.Features(None)


def test_features_are_those_of_single_images(installed):
    assert installed.name == "EfficientNetLite0"
    pixels = RANDOM.integers(0, 256, (3, 16, 16, 3), "uint8")
    together = installed(pixels)
    assert together.shape == (3, 1280)
    alone = np.concatenate([installed(pixels[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_the_callback_adds_the_distance(installed):
    pixels = RANDOM.integers(0, 256, (12, 16, 16, 3), "uint8")
    callback = metrics.ValidationDistance(
        lambda: pixels[:6], installed(pixels[6:]), installed
    )
    logs = {}
    callback.on_epoch_end(0, logs)
    expected = metrics.frechet_distance(installed(pixels[:6]), installed(pixels[6:]))
    assert logs == {"val_frechet_distance": pytest.approx(expected)}
