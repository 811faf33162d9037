"""How good scores are: recall of every class alike, and honesty about doubt."""

import keras
import numpy as np

CONFIDENCE_BINS = 15


@keras.saving.register_keras_serializable(package="sentiment_analysis")
class MacroRecall(keras.metrics.Metric):
    """The mean of the classes' recalls, for one-hot labels and scores.

    It is SemEval's measure of sentiment: a class counts as much as another, however
    rare. Classes without examples do not count.

    Args:
        num_classes: Number of classes.
        name: The name of the metric. Defaults to `macro_recall`.
        **kwargs: Base metric arguments.

    Reference:
        [Rosenthal et al., 2017](https://aclanthology.org/S17-2088), section 4.1
    """

    def __init__(self, num_classes, name="macro_recall", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.found = self.add_weight(
            shape=(num_classes,), initializer="zeros", name="found"
        )
        self.examples = self.add_weight(
            shape=(num_classes,), initializer="zeros", name="examples"
        )

    def update_state(self, labels, scores, sample_weight=None):
        """Counts a batch; weights of examples change nothing here."""
        best = keras.ops.one_hot(keras.ops.argmax(scores, -1), self.num_classes)
        self.found.assign_add(keras.ops.sum(labels * best, 0))
        self.examples.assign_add(keras.ops.sum(labels, 0))

    def result(self):
        """Returns the mean recall so far, from 0 to 1."""
        recalls = self.found / keras.ops.maximum(self.examples, 1)
        present = keras.ops.cast(self.examples > 0, "float32")
        return keras.ops.sum(recalls) / keras.ops.maximum(keras.ops.sum(present), 1)

    def get_config(self):
        """Returns the arguments of the metric."""
        return {**super().get_config(), "num_classes": self.num_classes}


def reliability(scores, labels, bins=CONFIDENCE_BINS):
    """Compares how sure a model is with how often it is right.

    Args:
        scores: `(examples, classes)`, which sum to 1.
        labels: The right classes, `(examples,)`.
        bins: Number of bins of equal width from 0 to 1.

    Returns:
        The mean confidence, the accuracy and the share of the examples of every bin
        that has examples, float64 `(used_bins, 3)`.
    """
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return np.array(
        [
            (confidence[inside].mean(), right[inside].mean(), inside.mean())
            for inside in (places == i for i in range(bins))
            if inside.any()
        ]
    )


def expected_calibration_error(curve):
    """Returns the mean gap between confidence and accuracy, from 0 to 1.

    Args:
        curve: From `reliability`.

    Reference:
        [Guo et al., 2017](https://arxiv.org/abs/1706.04599), equation 5
    """
    confidence, accuracy, share = curve.T
    return float((share * np.abs(confidence - accuracy)).sum())
