"""Distances between real and generated faces, on the features of a pretrained network.

The Fréchet distance is not FID, which is on features of Inception.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from apps.common import backbones
from apps.face_synthesis.attributes import MISSING

MAX_FACES = 10_000  # Real faces that are compared at most.
FEATURE_PIXELS = 128  # Height and width to which faces are resized for the network.
FEATURE_BATCH = 64
NUM_NEIGHBOURS = 5  # Of precision, recall, density and coverage.
SUBSET_SIZE, NUM_SUBSETS = 500, 20  # Of the kernel distance.


class Features:
    """The features of a network that was pretrained on ImageNet.

    Args:
        weights: Weights of MobileNetV2, as for `backbones.load_backbone`. None for
            EfficientNetLite0, whose weights are installed.

    Attributes:
        name: The name of the network.

    Raises:
        BadInput: The weights are missing or do not fit.
    """

    def __init__(self, weights: str | Path | None):
        self.name = "MobileNetV2" if weights else "EfficientNetLite0"
        preprocess, network = backbones.load_backbone(
            self.name, (FEATURE_PIXELS, FEATURE_PIXELS, 3), str(weights or "imagenet")
        )

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
        def extract(pixels):
            resized = tf.image.resize(pixels, 2 * [FEATURE_PIXELS], antialias=True)
            return tf.reduce_mean(network(preprocess(resized)), axis=(1, 2))

        self.extract = extract

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the features of images.

        Args:
            pixels: uint8 `(images, size, size, 3)`.

        Returns:
            float32 `(images, features)`.
        """
        parts = [
            self.extract(pixels[start : start + FEATURE_BATCH]).numpy()
            for start in range(0, len(pixels), FEATURE_BATCH)
        ]
        return np.concatenate(parts)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Fréchet distance between Gaussians that fit two sets of features.

    `|m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½)` with the means and the covariances. It
    depends on the numbers of examples: fewer give a larger distance.

    Args:
        first: Features, `(examples, features)`; a single example has no variance.
        second: Other features.

    Reference:
        [Heusel et al., 2017](https://arxiv.org/abs/1706.08500)
    """
    roots, traces = [], []
    for features in (first, second):
        features = np.asarray(features, float)
        centered = features - features.mean(axis=0)
        root = np.linalg.qr(centered, mode="r") / np.sqrt(max(1, len(features) - 1))
        roots.append(root)
        traces.append(np.square(root).sum())
    # C = RᵀR, so the eigenvalues of C₁C₂ are the squared singular values of R₁R₂ᵀ. No
    # root of a matrix is needed, and few examples do no harm.
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    shift = np.square(np.mean(first, 0, float) - np.mean(second, 0, float)).sum()
    return float(max(0.0, shift + sum(traces) - 2 * overlap))


def kernel_distance(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Returns the unbiased squared maximum mean discrepancy of two sets of features.

    The kernel is `(x·y / features + 1)³`. The distance is the mean of `NUM_SUBSETS`
    pairs of random subsets.

    Args:
        first: Features, `(examples, features)`; of a single example the distance says
            nothing.
        second: Other features.
        seed: Seed of the subsets.

    Reference:
        [Bińkowski et al., 2018](https://arxiv.org/abs/1801.01401)
    """
    random = np.random.default_rng(seed)
    size = min(SUBSET_SIZE, len(first), len(second))
    values = []
    for _ in range(NUM_SUBSETS):
        x, y = (
            np.asarray(each, float)[random.choice(len(each), size, replace=False)]
            for each in (first, second)
        )
        same = sum(_off_diagonal_mean(_kernel(each, each)) for each in (x, y))
        values.append(same - 2 * _kernel(x, y).mean())
    return float(np.mean(values))


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal_mean(matrix):
    size = len(matrix)
    return (matrix.sum() - np.trace(matrix)) / max(1, size * (size - 1))


def neighbour_scores(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Returns precision, recall, density and coverage of generated faces.

    A set of faces is described by balls around each of its faces, which reach to its
    `NUM_NEIGHBOURS`-th neighbour in the set.

    Args:
        real: Features of real faces, `(examples, features)`.
        generated: Features of generated ones.

    Returns:
        `precision`, the fraction of generated faces in some ball of a real one;
        `recall`, that of real faces in some ball of a generated one; `density`, the
        mean number of real balls around a generated face, as a fraction of
        `NUM_NEIGHBOURS`; `coverage`, the fraction of real faces whose ball has a
        generated one.

    Reference:
        [Kynkäänniemi et al., 2019](https://arxiv.org/abs/1904.06991);
        [Naeem et al., 2020](https://arxiv.org/abs/2002.09797)
    """
    real_radii, generated_radii = map(_radii, (real, generated))
    distances = squared_distances(real, generated)
    in_real = distances <= real_radii[:, None]
    return {
        "precision": float(in_real.any(axis=0).mean()),
        "recall": float((distances <= generated_radii).any(axis=1).mean()),
        "density": float(in_real.sum(axis=0).mean() / NUM_NEIGHBOURS),
        "coverage": float((distances.min(axis=1) <= real_radii).mean()),
    }


def _radii(features):
    """Returns the squared distance of each example to its k-th neighbour."""
    rank = min(NUM_NEIGHBOURS, len(features) - 1)  # Rank 0 is the example itself.
    distances = squared_distances(features, features)
    np.fill_diagonal(distances, 0)
    return np.partition(distances, rank, axis=1)[:, rank]


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the squared distances of all pairs, float `(first, second)`."""
    first, second = (np.asarray(each, float) for each in (first, second))
    squares = np.square(first).sum(1)[:, None] + np.square(second).sum(1)
    return np.maximum(squares - 2 * first @ second.T, 0)


def score(generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Returns all metrics of generated faces, by name.

    Args:
        generated: Features of generated faces, `(examples, features)`.
        real: Features of real ones.
    """
    return {
        "frechet_distance": frechet_distance(generated, real),
        "kernel_distance": kernel_distance(generated, real),
        **neighbour_scores(real, generated),
    }


def fit_classifier(
    known: np.ndarray, labels: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits a logistic regression on features of real faces.

    Args:
        known: Features, `(examples, features)`.
        labels: The classes, int `(examples,)`; those without, `MISSING`, do not count.

    Returns:
        A function from features to classes.
    """
    has_label = labels != MISSING
    # The more features, the more regularization: a thousand overfit thousands of faces.
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / known.shape[1], max_iter=1000)
    )
    with threadpool_limits(1):  # More threads are slower on small data.
        classifier.fit(known[has_label], labels[has_label])
    return classifier.predict


class ValidationDistance(keras.callbacks.Callback):
    """Adds the Fréchet distance of generated faces to the metrics of every epoch.

    The metric is called `val_frechet_distance`.

    Args:
        draw: Returns faces by the model in training, uint8 `(faces, size, size, 3)`.
        real: Features of the validation faces.
        features: The `Features`.
    """

    def __init__(
        self, draw: Callable[[], np.ndarray], real: np.ndarray, features: Features
    ):
        super().__init__()
        self.draw = draw
        self.real = real
        self.features = features

    def on_epoch_end(self, epoch, logs=None):
        """Draws the faces and scores them."""
        generated = self.features(self.draw())
        logs["val_frechet_distance"] = frechet_distance(generated, self.real)
