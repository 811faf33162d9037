"""Translates texts: answers on the screen, and a figure of the attention."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, figures
from apps.common.predictors import data_settings, in_batches
from apps.common.text import check_texts, print_unknown, quote_refused, read_texts
from apps.common.tokenizer import END_TOKEN
from apps.translation.config import Config
from apps.translation.data import load_split
from apps.translation.signatures import alignments, load_model


def predict(
    texts: Sequence[str], model: str, file: Path | None, figure: Path
) -> dict[str, np.ndarray]:
    """Prints each text with its translation and draws the attention.

    A line has the text, a tab and the translation; a blank line of the file is answered
    by an empty line. Says on standard error if a text was translated in parts, or if
    the model does not know some of its characters.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The answers for the texts that are not blank: `translations`, `scores`,
        `source_tokens`, `target_tokens` and `attention`, all `(texts,)`.

    Raises:
        BadInput: The model or a text cannot be used.
    """
    texts = list(texts)
    check_texts(texts)
    if file is not None:
        texts += read_texts(file)
    texts = texts or some_test_sentences(model)
    predictor = load_model(model, "with_attention")
    asked = list(filter(str.strip, texts))
    with quote_refused(asked):
        answers = in_batches(predictor, asked)
    aligned = alignments(answers)
    found = zip(answers["translations"], aligned, strict=True)
    titles = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            print()
            continue
        translation, (source_tokens, _, _) = next(found)
        print(f"{text}\t{translation.decode()}")
        print_warnings(number, text, source_tokens)
        titles.append(f"{text}\n→ {translation.decode()}")
    figures.draw_alignments(titles, aligned, figure)
    print(f"figure: {figure}")
    return answers


def print_warnings(number: int, text: str, source_tokens: Sequence[str]) -> None:
    """Says on standard error what is special about a text.

    Args:
        number: The number of the text.
        text: The text.
        source_tokens: Its tokens.
    """
    parts = source_tokens.count(END_TOKEN)
    if parts > 1:
        print(
            f"text {number} is long; its {parts} parts were translated one by one",
            file=sys.stderr,
        )
    tokens = [token for token in source_tokens if token != END_TOKEN]
    print_unknown(number, text, tokens, max_fraction=0)


def some_test_sentences(model: str, num_sentences: int = 9) -> list[str]:
    """Returns a few sentences that the model was not trained on."""
    config, _, held_out = data_settings(Config, model)
    examples = load_split(config, "test", held_out=held_out)
    return datasets.evenly(examples, num_sentences).sources
