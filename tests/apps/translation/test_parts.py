import json

import numpy as np
import pytest
import tensorflow as tf

from apps.translation import edge, parts


def on_server(texts, max_words):
    ragged = parts.split_texts(tf.constant(texts), parts.split_patterns(max_words))
    return [[part.decode() for part in row] for row in ragged.to_list()]


def on_device(texts, max_words):
    # As `search.json` holds them.
    patterns = json.loads(json.dumps(parts.split_patterns(max_words)))
    return [edge.split_text(text, *patterns) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four", ["one two three four"]),
        ("one. two! three? four", ["one. two! three? four"]),
        ("one two three four five", ["one two three four", "five"]),
        ("one two. three four five", ["one two.", "three four five"]),
        ("one? two! three… four. five", ["one?", "two!", "three…", "four.", "five"]),
        ("he said: “so.” and (no!) now he", ["he said: “so.”", "and (no!)", "now he"]),
        ("a b. c d e f g h i. j", ["a b.", "c d e f", "g h i.", "j"]),
        ("a b c d e f g h i", ["a b c d", "e f g h", "i"]),
        ("3.5 e.g.so is one long word", ["3.5 e.g.so is one", "long word"]),
        ("  a \t b\nc\r\n d   ", ["a b c d"]),
        ("a\nb\nc\nd\ne", ["a b c d", "e"]),
        ("", [""]),
        (" \n ", [""]),
    ],
)
def test_only_long_texts_are_split(text, expected):
    assert on_server([text], 4) == on_device([text], 4) == [expected]


def test_a_device_splits_texts_like_the_server():
    letters = [*"ab.!?…\"')»” \t\n", "  ", "ü", "你", "word ", ". ", "\u00a0", "\u2003"]
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(letters, random.integers(60))) for _ in range(500)]
    for most in (1, 2, 5):
        rows = on_server(texts, most)
        assert rows == on_device(texts, most)
        assert max(map(len, rows)) > 5
        for text, row in zip(texts, rows, strict=True):
            spaces = str.maketrans("\t\n", "  ")
            words = [word for word in text.translate(spaces).split(" ") if word]
            assert " ".join(row).split(" ") == (words or [""])  # No word is lost.
            if len(words) > most:
                assert max(len(part.split(" ")) for part in row) <= most


def test_long_texts_have_more_words_than_half_of_max_tokens():
    assert parts.max_words(80) == 40
    assert parts.max_words(1) == 1
    most = parts.max_words(10**5)
    assert most == parts.MAX_TOKENS // 2
    assert on_server(["a " * (most + 1)], most) == [[("a " * most).strip(), "a"]]


def test_attention_of_parts_is_written_in_lines():
    # Four parts; the third has no translation. The first text has one part.
    rows = [[[0.1, 0.9]], [[0.25, 0.75], [1, 0]], [], [[1 / 3, 2 / 3]]]
    attention = tf.ragged.constant(rows, ragged_rank=2)
    joined = parts.join_attention(attention, PARTS).numpy().tolist()
    assert joined == [
        b"0.100000 0.900000",
        b"0.250000 0.750000\n1.000000 0.000000\n\n\n\n0.333333 0.666667",
    ]


def test_tokens_of_parts_are_joined():
    token_ids = tf.ragged.constant([[5, 3], [6, 7, 3], [], [8]], tf.int32)
    joined = parts.join_parts(token_ids, PARTS)
    assert joined.to_list() == [[5, 3], [6, 7, 3, 8]]


PARTS = tf.RaggedTensor.from_row_lengths(tf.range(4), [1, 3])
