"""Long texts in parts: how they are split, and how the parts are joined again."""

import tensorflow as tf

from apps.common.text import PADDING

MOST_REPETITIONS = 1000  # RE2 counts no further.


def most_words(config):
    """Returns the words of a text above which it is translated in parts."""
    return min(max(1, config.max_tokens // 2), MOST_REPETITIONS)


def splitting_patterns(most_words):
    """Returns how long texts are split, for RE2 and for Python's `re` alike.

    Args:
        most_words: Words above which a text is split, and the most of a part.

    Returns:
        What matches the whole of a long text; then, for such a one, patterns and what
        replaces them, which part it by line breaks: at the ends of sentences, and where
        a sentence is still too long.
    """
    return (
        f"(?:[^ ]+ ){{{most_words},}}[^ ]+",
        (
            (r"([.!?…][\"')\]»”’]*) ", "\\1\n"),
            (f"((?:[^ \\n]+ ){{{most_words - 1}}}[^ \\n]+) ", "\\1\n"),
        ),
    )


def split(texts, patterns):
    """Splits long texts into parts, by `splitting_patterns`.

    Args:
        texts: UTF-8 strings, `(batch,)`.
        patterns: From `splitting_patterns`.

    Returns:
        The parts, ragged `(batch, parts)`, at least one of each text.
    """
    long, replacements = patterns
    texts = tf.strings.strip(tf.strings.regex_replace(texts, "[\t\n\v\f\r ]+", " "))
    parted = texts
    for pattern, replacement in replacements:
        parted = tf.strings.regex_replace(parted, pattern, replacement)
    is_long = tf.strings.regex_full_match(texts, long)
    return tf.strings.split(tf.where(is_long, parted, texts), "\n")


def pieces_of_texts(tokens, parts, vocabulary):
    """Returns the pieces of texts that consist of parts, padded with empty strings.

    Args:
        tokens: Numbers of the parts' pieces, ragged `(parts, steps)`.
        parts: The parts of each text, ragged `(texts, parts)`.
        vocabulary: All pieces, strings.
    """
    joined = parts.with_values(tokens).merge_dims(1, 2)
    return tf.gather(vocabulary, joined.to_tensor(PADDING))


def attention_of_texts(attention, source, target, parts):
    """Lays where attention went in each part side by side, along a diagonal.

    Args:
        attention: Of each part, `(parts, target_steps, source_steps)`.
        source: The pieces of the parts, ragged `(parts, source_steps)`.
        target: The pieces of their translations, likewise.
        parts: The parts of each text, ragged `(texts, parts)`.

    Returns:
        float32 `(texts, target_steps, source_steps)`; what was read in one part has no
        attention in another.
    """
    text_of = parts.value_rowids()
    first = tf.gather(parts.row_starts(), text_of)
    starts, sizes = [], [parts.nrows()]
    for tokens in (target, source):
        end = tf.cumsum(tokens.row_lengths())
        start = end - tokens.row_lengths()
        starts.append(start - tf.gather(start, first))
        whole = tf.math.segment_sum(tokens.row_lengths(), text_of)
        sizes.append(tf.reduce_max(whole))
    row, column = (
        tf.sequence_mask(tokens.row_lengths(), tf.shape(attention)[axis])
        for axis, tokens in ((1, target), (2, source))
    )
    cells = tf.where(row[:, :, None] & column[:, None])
    part, step, source_step = tf.unstack(cells, axis=1)
    places = tf.stack(
        [
            tf.gather(text_of, part),
            tf.gather(starts[0], part) + step,
            tf.gather(starts[1], part) + source_step,
        ],
        1,
    )
    return tf.scatter_nd(places, tf.gather_nd(attention, cells), tf.stack(sizes))
