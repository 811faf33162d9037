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
    # RE2 refuses larger numbers.
    most = parts.max_words(10**5)
    assert on_server(["a " * (most + 1)], most) == [[("a " * most).strip(), "a"]]


# Three parts and their translations; the second is empty. The first text has one part.
SOURCE = tf.ragged.constant([[5, 3], [6, 7, 3], [8, 3]], tf.int32)
TARGET = tf.ragged.constant([[5], [], [8, 6]], tf.int32, ragged_rank=1)
PARTS = tf.RaggedTensor.from_row_lengths(tf.range(3), [1, 2])


def test_attention_of_parts_lies_on_the_diagonal():
    rows = [[[0.1, 0.9]], [], [[0.2, 0.8], [0.6, 0.4]]]
    attention = tf.ragged.constant(rows, ragged_rank=2)
    joined = parts.join_attention(attention, SOURCE, TARGET, PARTS).numpy()
    expected = np.zeros((2, 2, 5), "float32")
    expected[0, :1, :2] = rows[0]
    expected[1, :, 3:] = rows[2]
    np.testing.assert_array_equal(joined, expected)


def test_tokens_of_parts_are_joined():
    vocabulary = tf.constant(["", *"abcdefgh"])
    joined = parts.join_tokens(TARGET, PARTS, vocabulary).numpy()
    assert joined.tolist() == [[b"e", b""], [b"h", b"f"]]
    joined = parts.join_tokens(SOURCE, PARTS, vocabulary).numpy()
    assert b"".join(joined[0]) == b"ec"
    assert b"".join(joined[1]) == b"fgchc"
