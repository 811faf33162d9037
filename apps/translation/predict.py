"""Translates sentences: answers on the screen, and a picture of the attention."""

import sys
from pathlib import Path

from apps.common import pictures
from apps.common.predictors import in_batches, training_config
from apps.common.text import check_texts, read_texts
from apps.translation.config import Config
from apps.translation.data import load_split
from apps.translation.model import alignments, load_model
from apps.translation.tokenizer import END_PIECE, UNKNOWN_PIECE


def predict(texts, model, file=None, picture=None):
    """Prints the translation of each text and draws where attention went.

    What is read otherwise than it was written, a long text in parts or a character that
    the model does not know, is told on standard error.

    Args:
        texts: The texts. Without any, and without a file, a few test sentences of the
            data that the model was trained on.
        model: Where the model is, as `predictors.load_predictor` takes it.
        file: A file with one text in each line; `-` reads standard input.
        picture: The PNG file to draw. Defaults to `runs/translation/predictions.png`.

    Returns:
        The answers: `translations` and `scores`, `(texts,)`; `source_pieces`, `pieces`
        and `attention`.

    Raises:
        BadInput: The model or a text cannot be used.
    """
    texts = list(texts)
    check_texts(texts)
    if file is not None:
        texts += read_texts(file)
    texts = texts or some_test_sentences(model)
    answers = in_batches(load_model(model), texts)
    translations = [translation.decode() for translation in answers["translations"]]
    aligned = alignments(answers)
    titles = []
    for number, (text, translation, (pieces, _, _)) in enumerate(
        zip(texts, translations, aligned, strict=True), start=1
    ):
        tell_differences(number, pieces)
        titles.append(f"{text}\n→ {translation}")
        print(titles[-1])

    picture = picture or Path("runs/translation/predictions.png")
    pictures.draw_alignments(titles, aligned, picture)
    print(f"picture: {picture}")
    return answers


def tell_differences(number, pieces):
    """Says on standard error how a text was read otherwise than it was written.

    Args:
        number: The number of the text.
        pieces: The pieces that were read.
    """
    parts = pieces.count(END_PIECE)
    if parts > 1:
        print(
            f"text {number} is long; translated in {parts} parts, each by itself",
            file=sys.stderr,
        )
    if UNKNOWN_PIECE in pieces:
        print(
            f"text {number} has characters that the model does not know; train it on "
            "texts that have them",
            file=sys.stderr,
        )


def some_test_sentences(model, number=9):
    """Returns a few sentences that the model was not trained on."""
    pairs = load_split(training_config(Config, model), "test")
    step = max(1, len(pairs) // number)
    return pairs.sources[::step][:number]
