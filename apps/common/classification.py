"""Scores classifiers, whatever they classify."""

import time
from dataclasses import dataclass

import numpy as np
from sklearn import metrics
from tqdm import tqdm

from apps.common.errors import BadInput
from apps.common.predictors import in_batches


@dataclass(frozen=True)
class Scores:
    """What a model answered, and what was right.

    Attributes:
        class_names: The classes that the model knows, sorted.
        scores: `(examples, classes)`, in that order.
        labels: The right classes, as positions in `class_names`, `(examples,)`.
        seconds: Time to answer all of them, reading included.
    """

    class_names: list[str]
    scores: np.ndarray
    labels: np.ndarray
    seconds: float

    @property
    def predictions(self):
        """The positions of the best classes, `(examples,)`."""
        return self.scores.argmax(axis=1)

    @property
    def accuracy(self):
        """The share of examples whose best class is the right one."""
        return metrics.accuracy_score(self.labels, self.predictions)

    @property
    def macro_recall(self):
        """The mean of the classes' recalls, each class counting alike."""
        return metrics.balanced_accuracy_score(self.labels, self.predictions)

    @property
    def macro_f1(self):
        """The mean of the F1 scores of all classes that occur or were answered."""
        return metrics.f1_score(
            self.labels, self.predictions, average="macro", zero_division=0
        )

    @property
    def surest_mistakes(self):
        """The positions of the wrongly classified, those with the best score first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.scores[wrong].max(axis=1), kind="stable")]


def score(predictor, raw_inputs, labels, class_names, unit):
    """Asks the model about every example.

    Args:
        predictor: A function from raw inputs to `classes` and `scores`.
        raw_inputs: What to classify; it is read as it is needed.
        labels: Positions in `class_names`, int `(examples,)`.
        class_names: The names that the labels stand for.
        unit: What an example is called on the progress bar.

    Returns:
        The `Scores`.

    Raises:
        BadInput: The data has a class that the model does not know.
    """
    start = time.perf_counter()
    answers = in_batches(predictor, tqdm(raw_inputs, total=len(labels), unit=unit))
    seconds = time.perf_counter() - start

    # Answers come sorted by score; put them back into the order of the names.
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


def summarize(scores):
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


def print_classes(report):
    """Prints precision, recall and F1 of each class as a table."""
    width = max(len(name) for name in ["class", *report["classes"]])
    print(f"{'class':{width}}  precision  recall     f1  examples")
    for name, row in report["classes"].items():
        print(
            f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  "
            f"{row['f1']:5.3f}  {row['examples']:8}"
        )


def print_speed(report, unit):
    """Prints the time that the answers took."""
    rate = report["examples"] / report["seconds"] if report["seconds"] else np.inf
    print(f"{report['seconds']} s, {rate:.0f} {unit}s a second")
