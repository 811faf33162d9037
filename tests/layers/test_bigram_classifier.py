import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import BigramClassifier
from tests.layers.layer_contract import check_layer, convert, export

VOCABULARY_SIZE, NUM_BUCKETS, UNITS = 50, 64, 3
TOKEN_IDS = np.array(
    [[7, 8, 7, 8, 9, 3], [49, 3, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]], "int32"
)
# Those of `TOKEN_IDS` that have a bucket.
PAIRS = ((7, 8), (8, 9), (49, 3))


def hashed(first, second, num_buckets=NUM_BUCKETS):
    return (first * 2039 + second) % num_buckets


def make_layer(pairs=PAIRS):
    """Returns a layer with random weights, whose buckets belong to these pairs."""
    layer = BigramClassifier(VOCABULARY_SIZE, NUM_BUCKETS, UNITS)
    layer.build((None, None))
    random = np.random.default_rng(0)
    first_tokens = np.zeros(NUM_BUCKETS, "int32")
    for first, second in pairs:
        first_tokens[hashed(first, second)] = first
    num_rows = VOCABULARY_SIZE + NUM_BUCKETS
    layer.set_weights(
        [
            first_tokens,
            random.uniform(1, 5, num_rows),
            random.normal(size=(num_rows, UNITS)),
            random.normal(size=UNITS),
        ]
    )
    return layer


def expected_logits(layer, token_ids, pairs=PAIRS):
    """Computes the logits one token and one pair at a time."""
    _, idf, kernel, bias = layer.get_weights()
    logits = []
    for row in token_ids:
        tokens = [int(token) for token in row if token]
        rows = list(tokens)
        for pair in itertools.pairwise(tokens):
            if pair in pairs:
                rows.append(VOCABULARY_SIZE + hashed(*pair))
        total = sum(idf[i] * kernel[i] for i in rows)
        length = sum(idf[i] ** 2 for i in rows) ** 0.5
        logits.append(total / length + bias)
    return np.array(logits)


def test_contract(tmp_path):
    arguments = {"vocabulary_size": 50, "num_buckets": 64, "units": 3}
    check_layer(BigramClassifier, arguments, (2, 5), (2, 3), tmp_path, max_integer=50)


def test_matches_numpy():
    layer = make_layer()
    expected = expected_logits(layer, TOKEN_IDS)
    np.testing.assert_allclose(layer(TOKEN_IDS), expected, rtol=1e-5)


def test_padding_changes_nothing():
    layer = make_layer()
    wider = np.pad(TOKEN_IDS, ((0, 0), (0, 5)))
    np.testing.assert_allclose(layer(wider), layer(TOKEN_IDS), rtol=1e-6)


def test_a_text_of_padding_only_has_the_bias():
    layer = make_layer()
    logits = layer(np.zeros((1, 4), "int32"))
    np.testing.assert_allclose(logits[0], layer.bias, rtol=1e-6)


def test_a_pair_never_takes_the_bucket_of_another():
    layer = make_layer()
    others = [
        (first, second)
        for first in range(1, VOCABULARY_SIZE)
        for second in range(1, VOCABULARY_SIZE)
        if hashed(first, second) == hashed(7, 8) and (first, second) != (7, 8)
    ]
    assert others
    rows = keras.ops.convert_to_numpy(layer.rows(np.array(others, "int32")))
    assert (rows[:, 2:] == 0).all()
    assert layer.rows(np.array([[7, 8]], "int32"))[0, 2] > 0


def test_the_largest_vocabulary_does_not_overflow():
    layer = BigramClassifier(10**6, 2**17, 2)
    last = np.int32(10**6 - 1)
    bucket = layer.buckets(tf.constant(last), tf.constant(last))
    assert int(bucket) == hashed(10**6 - 1, 10**6 - 1, 2**17)


@pytest.mark.parametrize("variant", ["float32", "dynamic_range"])
def test_every_runtime_gives_the_same_logits(variant, tmp_path):
    layer = make_layer()
    token_ids = tf.TensorSpec([1, None], tf.int32, name="token_ids")
    signature = tf.function(
        lambda token_ids: {"logits": layer(token_ids)}, input_signature=[token_ids]
    )
    served = export(signature, layer.variables, tmp_path / "1")
    runner = convert(signature, layer.variables, tmp_path / "model.tflite", variant)
    expected = expected_logits(layer, TOKEN_IDS)
    for row, logits in zip(TOKEN_IDS, expected, strict=True):
        row = row[None, : np.count_nonzero(row)]
        answer = served(token_ids=tf.constant(row))["logits"][0]
        np.testing.assert_allclose(answer, logits, rtol=1e-5)
        np.testing.assert_allclose(
            runner(token_ids=row)["logits"][0], logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("vocabulary_size", 0, "positive whole number"),
        ("num_buckets", 2.5, "positive whole number"),
        ("units", "3", "positive whole number"),
        ("vocabulary_size", 10**6 + 1, "at most 1000000"),
    ],
)
def test_rejects_sizes_out_of_range(name, value, message):
    arguments = {"vocabulary_size": 50, "num_buckets": 64, "units": 3, name: value}
    with pytest.raises(ValueError, match=message):
        BigramClassifier(**arguments)
