"""Word lists: which words a search may answer, and how probable they are."""

from collections import Counter
from pathlib import Path

import numpy as np

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.text import read_lines
from apps.speech_recognition.ctc import make_word_list

FILE = "words.npz"  # In a run and in an edge bundle.
TRAINING_WORDS = "train"  # The word list of the training texts.
# With more words, the probability of a word does not depend on the one before.
MAX_PAIRED_WORDS = 2_000
# How many times the probability of a word alone counts beside those after a word.
SMOOTHING = 5.0


def load_word_list(texts, tokenizer, config):
    """Returns the `ctc.WordList` of the settings, or None if they have none.

    The probabilities of words and of pairs of words are those of the training texts.

    Args:
        texts: The training texts.
        tokenizer: The `Tokenizer`.
        config: Gives the word list.

    Raises:
        BadInput: The file is missing or has no word that can be written, or the tokens
            are no characters.
    """
    if config.word_list is None:
        return None
    if config.token != "character":
        raise BadInput(
            f"--word-list {config.word_list} needs --token character, not "
            f"{config.token}"
        )
    if config.word_list == TRAINING_WORDS:
        words = sorted({word for text in texts for word in text.split()})
    else:
        lines = map(str.strip, read_lines(Path(config.word_list)))
        words = sorted(set(filter(None, lines)))
    skipped = [
        (word, "has a letter that no training text has")
        for word in words
        if tokenizer.unknown(word)
    ]
    datasets.print_skipped(skipped, "word")
    words = [word for word in words if not tokenizer.unknown(word)]
    if not words:
        raise BadInput(
            f"--word-list {config.word_list} has no word that can be written; write "
            "one word per line, as in the training texts"
        )
    (space,) = tokenizer.encode(" ") or [None]
    return make_word_list(
        [tokenizer.encode(word) for word in words],
        space,
        len(tokenizer),
        log_probabilities(texts, words),
    )


def log_probabilities(texts, words):
    """Returns how probable each word is after each other one.

    Args:
        texts: The texts to count.
        words: The words.

    Returns:
        Logarithms, float32 `(words + 1, words)`. The last row is for the first word of
        a text. A single row if there are many words.
    """
    numbers = {word: i for i, word in enumerate(words)}
    rows = [
        [numbers[word] for word in text.split() if word in numbers] for text in texts
    ]
    alone = np.ones(len(words))  # So that none is impossible.
    for number, count in Counter(n for row in rows for n in row).items():
        alone[number] += count
    alone /= alone.sum()
    if len(words) > MAX_PAIRED_WORDS:
        return np.log(alone)[None].astype("float32")
    pairs = np.zeros((len(words) + 1, len(words)))
    for row in rows:
        for before, word in zip([len(words), *row], row, strict=False):
            pairs[before, word] += 1
    pairs = pairs + SMOOTHING * alone
    return np.log(pairs / pairs.sum(axis=1, keepdims=True)).astype("float32")
