"""Macro recall and calibration error."""

import keras
import numpy as np

NUM_BINS = 15


@keras.saving.register_keras_serializable(package="sentiment_analysis")
class MacroRecall(keras.metrics.Metric):
    """The mean recall of all classes, for one-hot labels and scores.

    SemEval's metric for sentiment: rare classes count as much as frequent ones. Classes
    without examples are left out.

    Args:
        num_classes: Number of classes.
        name: The name of the metric. Defaults to `macro_recall`.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Reference:
        [Rosenthal et al., 2017](https://aclanthology.org/S17-2088), section 4.1
    """

    def __init__(self, num_classes, name="macro_recall", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.correct = self.add_weight(
            shape=(num_classes,), initializer="zeros", name="correct"
        )
        self.examples = self.add_weight(
            shape=(num_classes,), initializer="zeros", name="examples"
        )

    def update_state(self, labels, scores, sample_weight=None):
        """Adds a batch. Sample weights are ignored."""
        best = keras.ops.one_hot(keras.ops.argmax(scores, -1), self.num_classes)
        self.correct.assign_add(keras.ops.sum(labels * best, 0))
        self.examples.assign_add(keras.ops.sum(labels, 0))

    def result(self):
        """Returns the mean recall so far, from 0 to 1."""
        recalls = self.correct / keras.ops.maximum(self.examples, 1)
        present = keras.ops.cast(self.examples > 0, "float32")
        return keras.ops.sum(recalls) / keras.ops.maximum(keras.ops.sum(present), 1)

    def get_config(self):
        """Returns the arguments of the metric."""
        return {**super().get_config(), "num_classes": self.num_classes}


def reliability(
    scores: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS
) -> np.ndarray:
    """Returns the reliability curve: accuracy by confidence.

    Args:
        scores: `(examples, classes)`, which sum to 1.
        labels: The true classes, int `(examples,)`.
        num_bins: Number of bins of equal width from 0 to 1.

    Returns:
        For each bin that has examples, its mean confidence, its accuracy and its
        fraction of all examples, float64 `(bins, 3)`.
    """
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return np.array(
        [
            (confidence[inside].mean(), right[inside].mean(), inside.mean())
            for inside in (bins == i for i in range(num_bins))
            if inside.any()
        ]
    )


def expected_calibration_error(curve: np.ndarray) -> float:
    """Returns the mean difference between confidence and accuracy, from 0 to 1.

    Args:
        curve: From `reliability`.

    Reference:
        [Guo et al., 2017](https://arxiv.org/abs/1706.04599), equation 5
    """
    confidence, accuracy, fraction = curve.T
    return float((fraction * np.abs(confidence - accuracy)).sum())
