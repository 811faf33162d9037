"""Classifies texts: answers on the screen, and a picture of what was attended to."""

from pathlib import Path

from apps.common import pictures
from apps.common.predictors import in_batches, load_predictor, training_config
from apps.common.text import check_texts, read_texts
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_split
from apps.sentiment_analysis.model import attended_pieces, load_classifier


def predict(texts, model, file=None, picture=None):
    """Prints the classes of each text and draws the texts, shaded by attention.

    Args:
        texts: The texts. Without any, and without a file, a few test texts of the data
            that the model was trained on.
        model: Where the model is, as `predictors.load_predictor` takes it.
        file: A file with one text in each line; `-` reads standard input.
        picture: The PNG file to draw. Defaults to
            `runs/sentiment_analysis/predictions.png`.

    Returns:
        The answers: `classes` and `scores`, both `(texts, classes)`, best first, and
        `tokens` and `attention`, both `(texts, steps)`.

    Raises:
        BadInput: The model or a text cannot be used.
    """
    texts = list(texts)
    check_texts(texts)
    if file is not None:
        texts += read_texts(file)
    texts = texts or some_test_texts(model)
    predictor = load_predictor(model, load_classifier)
    answers = in_batches(predictor, texts)
    rows = []
    for text, names, scores, attended in zip(
        texts,
        answers["classes"],
        answers["scores"],
        attended_pieces(answers),
        strict=True,
    ):
        ranked = [
            f"{name.decode()} {score:.3f}"
            for name, score in zip(names, scores, strict=True)
        ]
        print(f"{', '.join(ranked)}: {text}")
        rows.append((ranked[0], *attended))

    picture = picture or Path("runs/sentiment_analysis/predictions.png")
    pictures.draw_texts(rows, picture)
    print(f"picture: {picture}")
    return answers


def some_test_texts(model, number=12):
    """Returns a few texts that the model was not trained on."""
    examples, _ = load_split(training_config(Config, model), "test")
    step = max(1, len(examples) // number)
    return examples.texts[::step][:number]
