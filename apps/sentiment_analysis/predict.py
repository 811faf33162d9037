"""Classifies texts: answers on the screen, and a picture of what was attended to."""

import codecs
import sys
from pathlib import Path

from apps.common import pictures
from apps.common.errors import BadInput
from apps.common.predictors import in_batches, load_predictor, training_config
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


def read_texts(file):
    """Returns the lines of a file, or of standard input, that are not empty.

    Raises:
        BadInput: The file is missing, empty or not UTF-8.
    """
    name = "standard input" if str(file) == "-" else f"--file {file}"
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{name} cannot be read: {error.strerror}; pass a file with one text in "
            "each line"
        ) from error
    texts = []
    content = content.removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{name}, line {number} is not UTF-8; save the file as UTF-8"
            ) from error
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise BadInput(f"{name} has no text; write one in each line")
    return texts


def check_texts(texts):
    """Checks texts from the command line.

    Raises:
        BadInput: One is empty or not UTF-8.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise BadInput(f"text {number} is empty; write at least one word")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                f"text {number} is not UTF-8; use a terminal that writes UTF-8, or "
                "--file"
            ) from error


def some_test_texts(model, number=12):
    """Returns a few texts that the model was not trained on."""
    examples, _ = load_split(training_config(Config, model), "test")
    step = max(1, len(examples) // number)
    return examples.texts[::step][:number]
