import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import layers
from apps.common import datasets
from apps.sentiment_analysis import linear

VOCABULARY_SIZE = 30


def make_texts(num_texts=200, num_classes=3):
    """Returns random texts whose class depends on a word and on a pair of words."""
    random = np.random.default_rng(0)
    labels = np.arange(num_texts) % num_classes
    texts = []
    for label in labels:
        words = random.integers(10, VOCABULARY_SIZE, random.integers(3, 9)).tolist()
        pair = [3, 4] if label == 2 else [4, 3]
        texts.append([*words, *pair, *([5] if label == 1 else []), *words[:2]])
    return tf.ragged.constant(texts, "int32"), labels


def make_layer(num_classes=3, num_buckets=2**10):
    layer = layers.BigramClassifier(VOCABULARY_SIZE, num_buckets, num_classes)
    layer.build((None, None))
    return layer


@pytest.mark.parametrize("num_classes", [2, 3])
def test_it_learns_words_and_pairs(num_classes):
    token_ids, labels = make_texts(num_classes=num_classes)
    layer = make_layer(num_classes)
    strength = linear.fit(layer, token_ids, labels, np.ones(num_classes))
    assert strength in linear.STRENGTHS
    predictions = layer(token_ids.to_tensor()).numpy().argmax(axis=1)
    np.testing.assert_array_equal(predictions, labels)


def test_the_layer_gives_the_probabilities_of_the_regression(monkeypatch):
    token_ids, labels = make_texts()
    fits = []
    fit_model = linear._fit_model

    def spy(features, *arguments):
        fits.append((features, fit_model(features, *arguments)))
        return fits[-1][1]

    monkeypatch.setattr(linear, "_fit_model", spy)
    layer = make_layer()
    linear.fit(layer, token_ids, labels, np.ones(3), strength=1.0)
    ((features, model),) = fits
    np.testing.assert_allclose(
        softmax(layer(token_ids.to_tensor()).numpy(), axis=1),
        model.predict_proba(features),
        atol=1e-5,
    )


def test_class_weights_count():
    token_ids, _ = make_texts()
    labels = np.random.default_rng(1).choice(2, token_ids.shape[0], p=[0.9, 0.1])
    layer = make_layer(2)
    linear.fit(layer, token_ids, labels, np.ones(2), strength=0.5)
    plain = layer(token_ids.to_tensor()).numpy().argmax(axis=1).mean()
    weights = datasets.balanced_weights(labels, 2)
    linear.fit(layer, token_ids, labels, weights, strength=0.5)
    balanced = layer(token_ids.to_tensor()).numpy().argmax(axis=1).mean()
    assert plain < 0.1 < balanced


def test_a_class_without_texts_and_a_class_with_one_text_are_possible():
    token_ids = tf.ragged.constant([[3, 4], [5, 6], [5, 7]], "int32")
    layer = make_layer()
    labels = np.array([0, 2, 2])
    assert linear.fit(layer, token_ids, labels, np.ones(3)) == linear.STRENGTHS[0]
    predictions = layer(token_ids.to_tensor()).numpy()[:, [0, 2]].argmax(axis=1)
    np.testing.assert_array_equal(predictions, [0, 1, 1])


def test_texts_of_one_token_have_no_pairs():
    token_ids = tf.ragged.constant([[3], [4], [3], [4]], "int32")
    assert linear.choose_num_buckets(token_ids, 2**17) == linear.MIN_BUCKETS
    layer = make_layer(2)
    linear.fit(layer, token_ids, np.array([0, 1, 0, 1]), np.ones(2))
    np.testing.assert_array_equal(layer.first_tokens, 0)


def test_there_are_at_least_twice_as_many_buckets_as_pairs():
    random = np.random.default_rng(0)
    texts = random.integers(1, 200, (1000, 20)).astype("int32")
    token_ids = tf.RaggedTensor.from_tensor(texts)
    num_pairs = len(
        {pair for row in texts.tolist() for pair in itertools.pairwise(row)}
    )
    num_buckets = linear.choose_num_buckets(token_ids, 2**17)
    assert 2 * num_pairs <= num_buckets < 4 * num_pairs
    assert linear.choose_num_buckets(token_ids, 4096) == 4096


def test_frequent_pairs_have_the_buckets():
    layer = make_layer(2, num_buckets=1)  # All pairs share it.
    token_ids = tf.ragged.constant([[3, 4], [5, 6], [5, 6], [7, 8]], "int32")
    linear.fit(layer, token_ids, np.array([0, 1, 0, 1]), np.ones(2))
    assert layer.first_tokens.numpy() == 5


def test_very_many_texts_are_sampled(monkeypatch):
    monkeypatch.setattr(linear, "MAX_TOKENS", 900)
    token_ids, labels = make_texts()
    assert token_ids.values.shape[0] > 1800
    seen = []
    monkeypatch.setattr(
        linear,
        "_fit_model",
        lambda features, labels, *arguments: seen.append(labels) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        linear.fit(make_layer(), token_ids, labels, np.ones(3), strength=1.0)
    (chosen,) = seen
    assert 50 < len(chosen) < 100
    assert set(chosen) == {0, 1, 2}
