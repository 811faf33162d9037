"""Translates texts: answers on the screen, and a figure of the attention."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, figures
from apps.common.predictors import data_settings, in_batches
from apps.common.text import check_texts, read_texts
from apps.translation.config import Config
from apps.translation.data import load_split
from apps.translation.signatures import alignments, load_model
from apps.translation.tokenizer import END_TOKEN, UNKNOWN_TOKEN


def predict(
    texts: Sequence[str], model: str, file: Path | None, figure: Path
) -> dict[str, np.ndarray]:
    """Prints the translation of each text and draws the attention.

    Says on standard error if a text was translated in parts, or if the model does not
    know some of its characters.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The answers: `translations` and `scores`, `(texts,)`; `source_tokens`,
        `target_tokens` and `attention`.

    Raises:
        BadInput: The model or a text cannot be used.
    """
    texts = list(texts)
    check_texts(texts)
    if file is not None:
        texts += read_texts(file)
    texts = texts or some_test_sentences(model)
    answers = in_batches(load_model(model), texts)
    aligned = alignments(answers)
    titles = []
    for number, (text, translation, (source_tokens, _, _)) in enumerate(
        zip(texts, answers["translations"], aligned, strict=True), start=1
    ):
        print_warnings(number, source_tokens)
        titles.append(f"{text}\n→ {translation.decode()}")
        print(titles[-1])
    figures.draw_alignments(titles, aligned, figure)
    print(f"figure: {figure}")
    return answers


def print_warnings(number: int, source_tokens: Sequence[str]) -> None:
    """Says on standard error what is special about a text.

    Args:
        number: The number of the text.
        source_tokens: Its tokens.
    """
    parts = source_tokens.count(END_TOKEN)
    if parts > 1:
        print(
            f"text {number} is long; its {parts} parts were translated one by one",
            file=sys.stderr,
        )
    if UNKNOWN_TOKEN in source_tokens:
        print(
            f"text {number} has characters that the model does not know; train it on "
            "texts that have them",
            file=sys.stderr,
        )


def some_test_sentences(model: str, num_sentences: int = 9) -> list[str]:
    """Returns a few sentences that the model was not trained on."""
    config, _, held_out = data_settings(Config, model)
    examples = load_split(config, "test", held_out=held_out)
    return datasets.evenly(examples, num_sentences).sources
