"""Scores a classifier on images that it has not seen."""

from pathlib import Path
from typing import Any

from sklearn.metrics import top_k_accuracy_score

from apps.common import baselines, classification, figures, runs
from apps.common.predictors import data_settings
from apps.image_classification.config import Config
from apps.image_classification.data import load_split
from apps.image_classification.signatures import load_model


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the metrics, draws the confusion matrix and the worst mistakes.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used, or they do not fit.
    """
    predictor = load_model(model)
    config, is_other_data, held_out = data_settings(Config, model, data)
    examples = load_split(config, split, is_other_data, held_out)
    scores = score(predictor, examples)
    report = summarize(scores)
    report["baseline"] = baselines.beside(model, split, is_other_data)
    print_report(report)

    other_data = config.data if is_other_data else None
    folder = figures_folder or runs.evaluation_folder(
        model, "image_classification", other_data
    )
    draw(scores, examples, folder)
    print(f"figures: {folder}")
    return report


def score(predictor, examples):
    """Runs a model on every image and returns its scores.

    Args:
        predictor: A function from encoded images to `classes` and `scores`.
        examples: `data.Examples`.

    Returns:
        `classification.Scores`.

    Raises:
        BadInput: The data has a class that the model does not know.
    """
    return classification.score(
        predictor,
        map(examples.image_bytes, range(len(examples))),
        examples.labels,
        examples.class_names,
        unit="image",
    )


def summarize(scores):
    """Returns the metrics as plain numbers, by name."""
    report = classification.summarize(scores)
    classes = range(len(scores.class_names))
    if len(classes) >= 10:  # With fewer classes it is always high.
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
    classification.print_baseline(report)
    classification.print_speed(report, "image")


def draw(scores, examples, folder, max_mistakes=24):
    """Draws the confusion matrix and the mistakes with the highest scores."""
    figures.draw_confusion_matrix(
        scores.labels,
        scores.predictions,
        scores.class_names,
        folder / "confusion_matrix.png",
    )
    mistakes = scores.surest_mistakes[:max_mistakes]
    titles = [
        f"{scores.class_names[scores.predictions[i]]} {scores.scores[i].max():.2f}\n"
        f"is {scores.class_names[scores.labels[i]]}"
        for i in mistakes
    ]
    figures.draw_grid(
        [examples.image_bytes(i) for i in mistakes],
        titles,
        folder / "worst_mistakes.png",
    )
