"""Scores a model, whatever it is, on images it has not seen."""

import json as json_module

from sklearn.metrics import top_k_accuracy_score

from apps.common import classification, datasets, pictures, runs
from apps.common.predictors import load_predictor, training_config
from apps.image_classification.config import Config
from apps.image_classification.data import load_split
from apps.image_classification.model import load_classifier


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
        `classification.Scores`.

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
        foreign=not datasets.is_same(data, config.data),
    )
    scores = score(predictor, examples, class_names)
    report = summarize(scores)
    print_report(report)

    folder = pictures_folder or runs.evaluation_folder(model, "image_classification")
    draw(scores, examples, folder)
    print(f"pictures: {folder}")
    if json:
        print(json_module.dumps(report, ensure_ascii=False))
    return scores


def score(predictor, examples, class_names):
    """Asks the model about every image.

    Args:
        predictor: A function from encoded images to `classes` and `scores`.
        examples: `data.Examples`.
        class_names: The names that the labels stand for.

    Returns:
        `classification.Scores`.

    Raises:
        BadInput: The data has a class that the model does not know.
    """
    encoded_images = map(examples.image_bytes, range(len(examples)))
    return classification.score(
        predictor, encoded_images, examples.labels, class_names, unit="image"
    )


def summarize(scores):
    """Returns the metrics as plain numbers, by name."""
    report = classification.summarize(scores)
    classes = range(len(scores.class_names))
    if len(classes) >= 10:  # With few classes the right one is always among five.
        report["top_5_accuracy"] = top_k_accuracy_score(
            scores.labels, scores.scores, k=5, labels=classes
        )
    return report


def print_report(report):
    """Prints the metrics as a table."""
    classification.print_classes(report)
    print(f"top-1 accuracy {report['accuracy']:.4f} on {report['examples']} images")
    if "top_5_accuracy" in report:
        print(f"top-5 accuracy {report['top_5_accuracy']:.4f}")
    classification.print_speed(report, "image")


def draw(scores, examples, folder, most=24):
    """Draws the confusion matrix and the mistakes of which the model was surest."""
    pictures.draw_confusion_matrix(
        scores.labels,
        scores.predictions,
        scores.class_names,
        folder / "confusion_matrix.png",
    )
    surest_first = scores.surest_mistakes[:most]
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
