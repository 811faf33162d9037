"""Classifies texts: answers on the screen, and a figure of the attention weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, figures
from apps.common.predictors import data_settings, in_batches
from apps.common.text import check_texts, print_unknown, quote_refused, read_texts
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_split
from apps.sentiment_analysis.signatures import load_model, tokens_with_attention


def predict(
    texts: Sequence[str], model: str, file: Path | None, figure: Path
) -> dict[str, np.ndarray]:
    """Prints the classes of each text and draws the texts, shaded by attention.

    A blank line of the file is answered by an empty line. Says on standard error if a
    text is mostly unknown to the model.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The answers for the texts that are not blank: `classes` and `scores`, both
        `(texts, classes)`, best first; `tokens` and `attention`, `(texts,)`.

    Raises:
        BadInput: The model or a text cannot be used.
    """
    texts = list(texts)
    check_texts(texts)
    if file is not None:
        texts += read_texts(file)
    texts = texts or some_test_texts(model)
    predictor = load_model(model, "with_attention")
    asked = list(filter(str.strip, texts))
    with quote_refused(asked):
        answers = in_batches(predictor, asked)
    found = zip(
        answers["classes"],
        answers["scores"],
        tokens_with_attention(answers),
        strict=True,
    )
    rows = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            print()
            continue
        classes, scores, (tokens, attention) = next(found)
        best = [
            f"{each.decode()} {score:.3f}"
            for each, score in zip(classes, scores, strict=True)
        ]
        print(f"{', '.join(best)}: {text}")
        print_unknown(number, text, tokens)
        rows.append((best[0], tokens, attention))
    figures.draw_texts(rows, figure)
    print(f"figure: {figure}")
    return answers


def some_test_texts(model, num_texts=12):
    """Returns a few texts that the model was not trained on."""
    config, _, held_out = data_settings(Config, model)
    examples = load_split(config, "test", held_out=held_out)
    return datasets.evenly(examples, num_texts).texts
