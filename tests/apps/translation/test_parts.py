import json

import numpy as np
import pytest
import tensorflow as tf

from apps.translation import edge, parts
from apps.translation.config import Config


def in_graph(texts, most):
    ragged = parts.split(tf.constant(texts), parts.splitting_patterns(most))
    return [[part.decode() for part in row] for row in ragged.to_list()]


def on_device(texts, most):
    # As they are read from the bundle.
    patterns = json.loads(json.dumps(parts.splitting_patterns(most)))
    return [edge.split(text, *patterns) for text in texts]


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
def test_long_texts_alone_are_split(text, expected):
    assert in_graph([text], 4) == on_device([text], 4) == [expected]


def test_texts_are_split_alike_on_a_device():
    letters = [*"ab.!?…\"')»” \t\n", "  ", "ü", "你", "word ", ". ", "\u00a0", "\u2003"]
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(letters, random.integers(60))) for _ in range(500)]
    for most in (1, 2, 5):
        rows = in_graph(texts, most)
        assert rows == on_device(texts, most)
        assert max(map(len, rows)) > 5
        for text, row in zip(texts, rows, strict=True):
            spaces = str.maketrans("\t\n", "  ")
            words = [word for word in text.translate(spaces).split(" ") if word]
            assert " ".join(row).split(" ") == (words or [""])  # None is lost.
            if len(words) > most:
                assert max(len(part.split(" ")) for part in row) <= most


def test_a_text_is_long_above_half_of_the_pieces_that_were_trained_on():
    assert parts.most_words(Config("", max_tokens=80)) == 40
    assert parts.most_words(Config("", max_tokens=1)) == 1
    # RE2 refuses larger numbers.
    most = parts.most_words(Config("", max_tokens=10**5))
    assert in_graph(["a " * (most + 1)], most) == [[("a " * most).strip(), "a"]]


def test_attention_lies_along_a_diagonal():
    """Two texts: of one part with one piece, and of two parts."""
    source = tf.ragged.constant([[5, 3], [6, 7, 3], [8, 3]], tf.int32)
    target = tf.ragged.constant([[5], [6, 7], [8]], tf.int32)
    of_texts = tf.RaggedTensor.from_row_lengths(tf.range(3), [1, 2])
    attention = np.random.default_rng(0).random((3, 4, 3)).astype("float32")
    whole = parts.attention_of_texts(attention, source, target, of_texts).numpy()
    assert whole.shape == (2, 3, 5)
    expected = np.zeros_like(whole)
    expected[0, :1, :2] = attention[0, :1, :2]
    expected[1, :2, :3] = attention[1, :2, :3]
    expected[1, 2:, 3:] = attention[2, :1, :2]
    np.testing.assert_array_equal(whole, expected)


def test_pieces_of_parts_are_joined():
    tokens = tf.ragged.constant([[1], [], [2, 1], [1]], tf.int32)
    of_texts = tf.RaggedTensor.from_row_lengths(tf.range(4), [1, 2, 1])
    vocabulary = tf.constant(["", "a", "b"])
    found = parts.pieces_of_texts(tokens, of_texts, vocabulary).numpy()
    assert found.tolist() == [[b"a", b""], [b"b", b"a"], [b"a", b""]]
