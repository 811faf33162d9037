"""Scores of classifiers of images, texts or anything else."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from apps.common.errors import BadInput
from apps.common.predictors import Predictor, in_batches


@dataclass(frozen=True)
class Scores:
    """The scores that a model gave to examples, and their labels.

    Attributes:
        class_names: The classes that the model knows, sorted.
        scores: `(examples, classes)`, in that order.
        labels: The true classes, as positions in `class_names`, `(examples,)`.
        seconds: The time for all answers, reading included.
    """

    class_names: list[str]
    scores: np.ndarray
    labels: np.ndarray
    seconds: float

    @property
    def predictions(self) -> np.ndarray:
        """The classes with the best scores, as positions, `(examples,)`."""
        return self.scores.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """The fraction of examples whose best class is the true one."""
        return metrics.accuracy_score(self.labels, self.predictions)

    @property
    def macro_recall(self) -> float:
        """The mean recall of the classes."""
        return metrics.balanced_accuracy_score(self.labels, self.predictions)

    @property
    def macro_f1(self) -> float:
        """The mean F1 score of the classes that occur as labels or answers."""
        return metrics.f1_score(
            self.labels, self.predictions, average="macro", zero_division=0
        )

    @property
    def surest_mistakes(self) -> np.ndarray:
        """The indices of the wrong answers, the highest score first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.scores[wrong].max(axis=1), kind="stable")]


def score(
    predictor: Predictor,
    raw_inputs: Iterable[Any],
    labels: np.ndarray,
    class_names: Sequence[str],
    unit: str,
) -> Scores:
    """Runs a model on every example and returns its scores.

    Args:
        predictor: A function from raw inputs to `classes` and `scores`.
        raw_inputs: The inputs, read one batch at a time.
        labels: The true classes, as positions in `class_names`, int `(examples,)`.
        class_names: The names of the classes.
        unit: What an example is called on the progress bar.

    Raises:
        BadInput: The data has a class that the model does not know.
    """
    start = time.perf_counter()
    answers = in_batches(
        predictor, tqdm(raw_inputs, total=len(labels), unit=unit, disable=None)
    )
    seconds = time.perf_counter() - start

    # Answers are sorted by score; sort them by class name.
    names = np.char.decode(answers["classes"].astype(bytes), "utf-8")
    order = np.argsort(names, axis=1)
    known = np.take_along_axis(names, order, axis=1)[0].tolist()
    unknown = [name for name in class_names if name not in known]
    if unknown:
        raise BadInput(
            f"the data has the class {unknown[0]}, but the model knows only "
            f"{', '.join(known)}; evaluate on the classes it was trained on"
        )
    position = np.array([known.index(name) for name in class_names])
    return Scores(
        known,
        np.take_along_axis(answers["scores"], order, axis=1),
        position[labels],
        seconds,
    )


def summarize(scores: Scores) -> dict[str, Any]:
    """Returns the metrics as plain numbers, by name."""
    classes = range(len(scores.class_names))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        scores.labels, scores.predictions, labels=classes, zero_division=0
    )
    return {
        "accuracy": scores.accuracy,
        "examples": len(scores.labels),
        "seconds": round(scores.seconds, 2),
        "classes": {
            name: {
                "precision": precision[i],
                "recall": recall[i],
                "f1": f1[i],
                "examples": int(support[i]),
            }
            for i, name in enumerate(scores.class_names)
        },
    }


def softmax_weights(regression: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """Returns a fitted logistic regression as the weights of a softmax layer.

    Returns:
        The kernel, `(features, classes)`, and the bias, `(classes,)`.
    """
    kernel, bias = regression.coef_.T, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn has a single logit for two.
        kernel = np.concatenate([-kernel, kernel], axis=1) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return kernel, bias


def print_classes(report: Mapping[str, Any]) -> None:
    """Prints precision, recall and F1 of each class as a table."""
    width = max(len(name) for name in ["class", *report["classes"]])
    print(f"{'class':{width}}  precision  recall     f1  examples")
    for name, row in report["classes"].items():
        print(
            f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  "
            f"{row['f1']:5.3f}  {row['examples']:8}"
        )


def print_baseline(report: Mapping[str, Any]) -> None:
    """Prints the scores of the baseline on the same examples, if it was measured.

    Args:
        report: Its `baseline` comes from `baselines.beside`.
    """
    if baseline := report["baseline"]:
        scores = ", ".join(
            f"{name.replace('_', ' ')} {value:.4f}"
            for name, value in baseline.items()
            if name != "name"
        )
        print(f"baseline {scores} ({baseline['name']})")


def print_speed(report: Mapping[str, Any], unit: str) -> None:
    """Prints the time that all answers took."""
    rate = report["examples"] / report["seconds"] if report["seconds"] else np.inf
    print(f"{report['seconds']} s, {rate:.0f} {unit}s a second")
