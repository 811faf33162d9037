"""Scores a model, whatever it is, on texts it has not seen."""

import dataclasses
import json as json_module

import numpy as np

from apps.common import classification, datasets, pictures, runs
from apps.common.predictors import load_predictor, training_config
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_split
from apps.sentiment_analysis.metrics import expected_calibration_error, reliability
from apps.sentiment_analysis.model import attended_pieces, load_classifier


def evaluate(
    model,
    data=None,
    split="test",
    text_column=None,
    label_column=None,
    json=False,
    pictures_folder=None,
):
    """Prints macro-averaged recall, accuracy, macro F1, calibration and each class.

    Draws the confusion matrix, the reliability curve and the worst mistakes.

    Args:
        model: Where the model is, as `predictors.load_predictor` takes it.
        data: As in `Config.data`. Defaults to what the model was trained on.
        split: `train`, `validation`, `test` or `all`.
        text_column: As in `Config`. Defaults to that of the training.
        label_column: As in `Config`. Defaults to that of the training.
        json: Whether to print one JSON object as the last line.
        pictures_folder: Where to draw. Defaults to `evaluation` in a run directory,
            and to `runs/sentiment_analysis/evaluation` for other models.

    Returns:
        `classification.Scores`.

    Raises:
        BadInput: The model or the data cannot be used, or they do not fit.
    """
    predictor = load_predictor(model, load_classifier)
    trained = training_config(Config, model, data)
    config = dataclasses.replace(
        trained,
        data=data or trained.data,
        text_column=text_column or trained.text_column,
        label_column=label_column or trained.label_column,
    )
    foreign = not datasets.is_same(config.data, trained.data)
    examples, class_names = load_split(config, split, foreign)
    print(f"{len(examples)} texts of {config.data}")
    scores = score(predictor, examples, class_names)
    report = summarize(scores)
    print_report(report)

    folder = pictures_folder or runs.evaluation_folder(model, "sentiment_analysis")
    draw(scores, examples, predictor, folder)
    print(f"pictures: {folder}")
    if json:
        print(json_module.dumps(report, ensure_ascii=False))
    return scores


def score(predictor, examples, class_names):
    """Asks the model about every text.

    Args:
        predictor: A function from texts to `classes` and `scores`.
        examples: `data.Examples`.
        class_names: The names that the labels stand for.

    Returns:
        `classification.Scores`.

    Raises:
        BadInput: The data has a class that the model does not know.
    """
    # Texts of similar lengths are asked about together, so that little is padding.
    order = np.argsort([len(text) for text in examples.texts], kind="stable")
    scores = classification.score(
        predictor,
        [examples.texts[i] for i in order],
        examples.labels[order],
        class_names,
        unit="text",
    )
    back = np.argsort(order)
    return dataclasses.replace(
        scores, scores=scores.scores[back], labels=scores.labels[back]
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
    print(f"macro-averaged recall {report['macro_recall']:.4f}")
    print(f"accuracy {report['accuracy']:.4f} on {report['examples']} texts")
    print(f"macro F1 {report['macro_f1']:.4f}")
    print(f"expected calibration error {report['expected_calibration_error']:.4f}")
    classification.print_speed(report, "text")


def draw(scores, examples, predictor, folder, most=20):
    """Draws the confusion matrix, the reliability curve and the surest mistakes.

    Args:
        scores: `classification.Scores`.
        examples: The `data.Examples` that were scored.
        predictor: What answered; it is asked again where attention went.
        folder: Where to draw.
        most: Mistakes to draw.
    """
    pictures.draw_confusion_matrix(
        scores.labels,
        scores.predictions,
        scores.class_names,
        folder / "confusion_matrix.png",
    )
    pictures.draw_reliability(
        reliability(scores.scores, scores.labels), folder / "reliability.png"
    )
    texts = []
    for i in scores.surest_mistakes[:most]:
        answers = predictor([examples.texts[i]])
        title = (
            f"{scores.class_names[scores.predictions[i]]} "
            f"{scores.scores[i].max():.2f}, "
            f"is {scores.class_names[scores.labels[i]]}"
        )
        texts.append((title, *attended_pieces(answers)[0]))
    pictures.draw_texts(texts, folder / "worst_mistakes.png")
