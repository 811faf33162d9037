"""Scores a model, whatever it is, on images it has not seen."""

import json as json_module
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn import metrics
from tqdm import tqdm

from apps.common import pictures
from apps.common.errors import BadInput
from apps.common.predictors import in_batches, load_predictor, training_config
from apps.image_classification.config import Config
from apps.image_classification.data import load_split
from apps.image_classification.model import load_classifier


@dataclass(frozen=True)
class Scores:
    """What a model answered, and what was right.

    Attributes:
        class_names: The classes that the model knows, sorted.
        scores: `(images, classes)`, in that order.
        labels: The right classes, as positions in `class_names`, `(images,)`.
        seconds: Time to answer all images, reading them included.
    """

    class_names: list[str]
    scores: np.ndarray
    labels: np.ndarray
    seconds: float

    @property
    def predictions(self):
        """The positions of the best classes, `(images,)`."""
        return self.scores.argmax(axis=1)

    @property
    def accuracy(self):
        """The share of images whose best class is the right one."""
        return metrics.accuracy_score(self.labels, self.predictions)


def evaluate(model, data=None, split="test", json=False, pictures_folder=None):
    """Prints top-1 and top-5 accuracy and each class's precision and recall.

    Draws the confusion matrix and the worst mistakes.

    Args:
        model: Where the model is, as `predictors.load_predictor` takes it.
        data: As in `Config.data`. Defaults to what the model was trained on.
        split: `train`, `validation`, `test` or `all`.
        json: Whether to print one JSON object as the last line.
        pictures_folder: Where to draw. Defaults to `evaluation` in a run directory,
            and to `runs/image_classification/evaluation` for other models.

    Returns:
        The `Scores`.

    Raises:
        BadInput: The model or the data cannot be used, or they do not fit.
    """
    predictor = load_predictor(model, load_classifier)
    config = training_config(Config, model, data)
    data = data or config.data
    examples, class_names = load_split(
        data,
        split,
        config.validation_fraction,
        config.seed,
        foreign=data != config.data,
    )
    scores = score(predictor, examples, class_names)
    report = summarize(scores)
    print_report(report)

    if pictures_folder is None:
        is_run = (Path(model) / "model.keras").exists()
        folder = Path(model) if is_run else Path("runs/image_classification")
        pictures_folder = folder / "evaluation"
    draw(scores, examples, pictures_folder)
    print(f"pictures: {pictures_folder}")
    if json:
        print(json_module.dumps(report, ensure_ascii=False))
    return scores


def score(predictor, examples, class_names):
    """Asks the model about every image.

    Args:
        predictor: A function from encoded images to `classes` and `scores`.
        examples: `data.Examples`.
        class_names: The names that the labels stand for.

    Raises:
        BadInput: The data has a class that the model does not know.
    """

    start = time.perf_counter()
    encoded_images = map(examples.image_bytes, range(len(examples)))
    answers = in_batches(
        predictor, tqdm(encoded_images, total=len(examples), unit="image")
    )
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
        position[examples.labels],
        seconds,
    )


def summarize(scores):
    """Returns the metrics as plain numbers, by name."""
    classes = range(len(scores.class_names))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        scores.labels, scores.predictions, labels=classes, zero_division=0
    )
    report = {
        "accuracy": scores.accuracy,
        "examples": len(scores.labels),
        "seconds": round(scores.seconds, 2),
    }
    if len(classes) >= 10:  # With few classes the right one is always among five.
        report["top_5_accuracy"] = metrics.top_k_accuracy_score(
            scores.labels, scores.scores, k=5, labels=classes
        )
    report["classes"] = {
        name: {
            "precision": precision[i],
            "recall": recall[i],
            "f1": f1[i],
            "examples": int(support[i]),
        }
        for i, name in enumerate(scores.class_names)
    }
    return report


def print_report(report):
    """Prints the metrics as a table."""
    width = max(len(name) for name in ["class", *report["classes"]])
    print(f"{'class':{width}}  precision  recall     f1  examples")
    for name, row in report["classes"].items():
        print(
            f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  "
            f"{row['f1']:5.3f}  {row['examples']:8}"
        )
    print(f"top-1 accuracy {report['accuracy']:.4f} on {report['examples']} images")
    if "top_5_accuracy" in report:
        print(f"top-5 accuracy {report['top_5_accuracy']:.4f}")
    rate = report["examples"] / report["seconds"] if report["seconds"] else np.inf
    print(f"{report['seconds']} s, {rate:.0f} images a second")


def draw(scores, examples, folder, most=24):
    """Draws the confusion matrix and the mistakes of which the model was surest."""
    pictures.draw_confusion_matrix(
        scores.labels,
        scores.predictions,
        scores.class_names,
        folder / "confusion_matrix.png",
    )
    wrong = np.flatnonzero(scores.predictions != scores.labels)
    surest_first = wrong[np.argsort(-scores.scores[wrong].max(axis=1))][:most]
    titles = [
        f"{scores.class_names[scores.predictions[i]]} {scores.scores[i].max():.2f}\n"
        f"is {scores.class_names[scores.labels[i]]}"
        for i in surest_first
    ]
    pictures.draw_grid(
        [examples.image_bytes(i) for i in surest_first],
        titles,
        folder / "worst_mistakes.png",
    )
