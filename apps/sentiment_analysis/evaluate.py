"""Scores a classifier on texts that it has not seen."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from apps.common import baselines, classification, figures, runs
from apps.common.predictors import data_settings
from apps.common.text import quote_refused
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_split
from apps.sentiment_analysis.metrics import expected_calibration_error, reliability
from apps.sentiment_analysis.signatures import load_model, tokens_with_attention


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    text_column: str | None = None,
    label_column: str | None = None,
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the metrics, draws confusion matrix, reliability and the worst mistakes.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used, or they do not fit.
    """
    predictor = load_model(model)
    with_attention = load_model(model, "with_attention")
    config, is_other_data, held_out = data_settings(
        Config, model, data, text_column=text_column, label_column=label_column
    )
    examples = load_split(config, split, is_other_data, held_out)
    print(f"{len(examples)} texts of {config.data}")
    scores = score(predictor, examples)
    report = summarize(scores)
    if baseline := baselines.beside(model, split, is_other_data):
        report["baseline"] = baseline
    print_report(report)

    other_data = config.data if is_other_data else None
    folder = figures_folder or runs.evaluation_folder(
        model, "sentiment_analysis", other_data
    )
    draw(scores, examples, with_attention, folder)
    print(f"figures: {folder}")
    return report


def score(predictor, examples):
    """Runs a model on every text and returns its scores.

    Args:
        predictor: A function from texts to `classes` and `scores`.
        examples: `data.Examples`.

    Returns:
        `classification.Scores`, in the order of the examples.

    Raises:
        BadInput: The data has a class that the model does not know, or the model
            refuses a text.
    """
    # Sorted by length, so that batches have little padding.
    order = np.argsort([len(text) for text in examples.texts], kind="stable")
    texts = [examples.texts[i] for i in order]
    with quote_refused(texts):
        scores = classification.score(
            predictor, texts, examples.labels[order], examples.class_names, unit="text"
        )
    original = np.argsort(order)
    return dataclasses.replace(
        scores, scores=scores.scores[original], labels=scores.labels[original]
    )


def summarize(scores):
    """Returns the metrics as plain numbers, by name."""
    curve = reliability(scores.scores, scores.labels)
    return {
        "macro_recall": scores.macro_recall,
        "macro_f1": scores.macro_f1,
        "expected_calibration_error": expected_calibration_error(curve),
        **classification.summarize(scores),
    }


def print_report(report):
    """Prints the metrics as a table."""
    classification.print_classes(report)
    print(f"macro recall {report['macro_recall']:.4f}")
    print(f"accuracy {report['accuracy']:.4f} on {report['examples']} texts")
    print(f"macro F1 {report['macro_f1']:.4f}")
    print(f"expected calibration error {report['expected_calibration_error']:.4f}")
    if baseline := report.get("baseline"):
        print(
            f"baseline: macro recall {baseline['macro_recall']:.4f}, accuracy "
            f"{baseline['accuracy']:.4f} ({baseline['name']})"
        )
    classification.print_speed(report, "text")


def draw(scores, examples, predictor, folder, max_mistakes=20):
    """Draws confusion matrix, reliability and the mistakes with the highest scores.

    Args:
        scores: `classification.Scores`.
        examples: The `data.Examples` that were scored.
        predictor: Its signature `with_attention`, for the mistakes.
        folder: The folder for the figures.
        max_mistakes: Maximum number of mistakes to draw.
    """
    figures.draw_confusion_matrix(
        scores.labels,
        scores.predictions,
        scores.class_names,
        folder / "confusion_matrix.png",
    )
    figures.draw_reliability(
        reliability(scores.scores, scores.labels), folder / "reliability.png"
    )
    rows = []
    for i in scores.surest_mistakes[:max_mistakes]:
        (row,) = tokens_with_attention(predictor([examples.texts[i]]))
        title = (
            f"{scores.class_names[scores.predictions[i]]} {scores.scores[i].max():.2f}"
            f", is {scores.class_names[scores.labels[i]]}"
        )
        rows.append((title, *row))
    figures.draw_texts(rows, folder / "worst_mistakes.png")
