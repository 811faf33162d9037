"""Splits long texts into parts, and joins the translations of the parts."""

import tensorflow as tf

from apps.common.text import PADDING

MAX_REPETITIONS = 1000  # RE2 refuses larger counts.


def max_words(max_tokens: int) -> int:
    """Returns the number of words above which a text is translated in parts.

    Args:
        max_tokens: Longest sentence used for training, as `Config.max_tokens`.
    """
    return min(max(1, max_tokens // 2), MAX_REPETITIONS)


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


def join_tokens(token_ids, parts, vocabulary):
    """Returns the tokens of whole texts, strings `(texts, steps)`.

    Shorter texts are padded with the padding token of the vocabulary.

    Args:
        token_ids: Token ids of each part, ragged `(parts, steps)`.
        parts: The parts of each text, ragged `(texts, parts)`.
        vocabulary: All tokens, strings `(vocabulary,)`.
    """
    return tf.gather(vocabulary, join_parts(token_ids, parts).to_tensor(PADDING))


def join_attention(attention, source, target, parts):
    """Returns the attention of whole texts, float32 `(texts, steps, source_steps)`.

    The matrices of the parts lie along the diagonal. Everything else is zero, since no
    part attends to another one.

    Args:
        attention: The attention of each part, ragged `(parts, steps, source_steps)`.
        source: Token ids of each part, ragged `(parts, source_steps)`.
        target: Token ids of its translation, ragged `(parts, steps)`.
        parts: The parts of each text, ragged `(texts, parts)`.
    """
    source_of_texts, target_of_texts = (
        join_parts(token_ids, parts) for token_ids in (source, target)
    )
    num_rows, num_columns = (
        token_ids.bounding_shape(1) for token_ids in (target_of_texts, source_of_texts)
    )
    # Where each part begins in its text, and in the flattened result.
    text = parts.value_rowids()
    row = target.row_starts() - tf.gather(target_of_texts.row_starts(), text)
    column = source.row_starts() - tf.gather(source_of_texts.row_starts(), text)
    part_start = (text * num_rows + row) * num_columns + column
    # Where each row of each part begins, and where each of its weights belongs.
    part_end = part_start + target.row_lengths() * num_columns
    row_start = tf.ragged.range(part_start, part_end, num_columns).values
    row_lengths = tf.repeat(source.row_lengths(), target.row_lengths())
    places = tf.ragged.range(row_start, row_start + row_lengths).values
    shape = tf.stack([parts.nrows(), num_rows, num_columns])
    flat = tf.scatter_nd(
        places[:, None], attention.flat_values, tf.reduce_prod(shape)[None]
    )
    return tf.reshape(flat, shape)


def join_parts(values, parts):
    """Joins the rows of the parts of each text, ragged `(parts, …)`."""
    row_splits = tf.gather(values.row_splits, parts.row_splits)
    return tf.RaggedTensor.from_row_splits(values.values, row_splits, validate=False)
