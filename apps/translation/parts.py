"""Splits long texts into parts, and joins the translations of the parts."""

import tensorflow as tf

from apps.common.text import join_rows

MAX_TOKENS = 128  # Of a part.


def max_words(max_tokens: int) -> int:
    """Returns the number of words above which a text is translated in parts.

    Args:
        max_tokens: Longest sentence used for training, as `Config.max_tokens`.
    """
    return max(1, min(max_tokens, MAX_TOKENS) // 2)


def split_patterns(max_words: int) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Returns the regular expressions that split long texts, for RE2 and `re`.

    Args:
        max_words: Number of words above which a text is split, and the maximum of a
            part.

    Returns:
        A pattern that matches a whole long text. Then pairs of a pattern and its
        replacement, which put line breaks into a long text: first after each sentence,
        then inside sentences that are still too long.
    """
    return (
        f"(?:[^ ]+ ){{{max_words},}}[^ ]+",
        (
            (r"([.!?…][\"')\]»”’]*) ", "\\1\n"),
            (f"((?:[^ \\n]+ ){{{max_words - 1}}}[^ \\n]+) ", "\\1\n"),
        ),
    )


def split_texts(texts, patterns):
    """Splits long texts into parts.

    Args:
        texts: UTF-8 strings, `(batch,)`.
        patterns: As returned by `split_patterns`.

    Returns:
        The parts, ragged `(batch, parts)`; at least one for each text.
    """
    long_text, replacements = patterns
    texts = tf.strings.strip(tf.strings.regex_replace(texts, "[\t\n\v\f\r ]+", " "))
    broken = texts
    for pattern, replacement in replacements:
        broken = tf.strings.regex_replace(broken, pattern, replacement)
    is_long = tf.strings.regex_full_match(texts, long_text)
    return tf.strings.split(tf.where(is_long, broken, texts), "\n")


def join_attention(attention, parts):
    """Returns the attention of whole texts, strings `(texts,)`.

    There is one line for each target token, with the weights of the source tokens of
    its part, separated by spaces; and an empty line between two parts.

    Args:
        attention: The attention of each part, ragged `(parts, steps, source_steps)`.
        parts: The parts of each text, ragged `(texts, parts)`.
    """
    lines = attention.with_values(join_rows(attention.values))
    return join_rows(parts.with_values(join_rows(lines, "\n")), "\n\n")


def join_parts(values, parts):
    """Joins the rows of the parts of each text, ragged `(parts, …)`."""
    row_splits = tf.gather(values.row_splits, parts.row_splits)
    return tf.RaggedTensor.from_row_splits(values.values, row_splits, validate=False)
