"""The linear branch of the model, fitted by scikit-learn."""

import numpy as np
import tensorflow as tf
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

import layers
from apps.common import classification

# Strengths to choose from: inverse regularization, scikit-learn's `C`. The first one is
# taken if a class is too small for cross-validation, which takes at most so many texts.
STRENGTHS = (3.0, 0.5, 1.0, 10.0, 30.0)
NUM_FOLDS = 4
MAX_TEXTS = 5000
MIN_BUCKETS = 2**10
MAX_TOKENS = 10**7  # Of very many texts some are enough.
MIN_SQUARE = 1e-6  # Of the length of a text, as in the layer.


def choose_num_buckets(token_ids: tf.RaggedTensor, max_buckets: int) -> int:
    """Returns a number of buckets for pairs: a power of 2 with room for all of them.

    Args:
        token_ids: The training texts, int32 `(texts, steps)`.
        max_buckets: The largest number to return.
    """
    num_pairs = _pairs(token_ids)[0].shape[1]
    num_buckets = MIN_BUCKETS
    while num_buckets < 2 * num_pairs:
        num_buckets *= 2
    return min(num_buckets, max_buckets)


def fit(
    layer: layers.BigramClassifier,
    token_ids: tf.RaggedTensor,
    labels: np.ndarray,
    class_weights: np.ndarray,
    strength: float | None = None,
) -> float:
    """Fits a logistic regression on the features of the layer, and sets its weights.

    Of more than 10 million tokens it sees a random sample of the texts.

    Args:
        layer: A built layer.
        token_ids: The training texts, int32 `(texts, steps)`.
        labels: Their classes, int `(texts,)`.
        class_weights: The weight of a text of each class, `(classes,)`.
        strength: The inverse regularization, `C`. Defaults to the best one in
            cross-validation.

    Returns:
        That strength.
    """
    token_ids, labels = _sample(token_ids, labels)
    num_rows = layer.vocabulary_size + layer.num_buckets
    idf, kernel = np.zeros(num_rows), np.zeros((num_rows, layer.units))
    bias = np.zeros(layer.units)
    first_tokens = _assign_buckets(layer, token_ids)
    layer.set_weights([first_tokens, idf, kernel, bias])

    counts = _count_rows(layer, token_ids)
    num_texts = np.bincount(counts.indices, minlength=num_rows)
    used = np.flatnonzero(num_texts)
    idf[used] = np.log((1 + len(labels)) / (1 + num_texts[used])) + 1
    lengths = np.sqrt(np.maximum(counts @ idf**2, MIN_SQUARE))
    features = sparse.diags_array(1 / lengths) @ counts @ sparse.diags_array(idf)
    features = features.tocsc()[:, used].tocsr()

    with threadpool_limits(1):  # More threads are slower on sparse features.
        if strength is None:
            strength = _choose_strength(features, labels, class_weights)
        model = _fit_model(features, labels, class_weights, strength)
    coefficients, intercept = classification.softmax_weights(model)
    kernel[np.ix_(used, model.classes_)] = coefficients
    bias[model.classes_] = intercept
    layer.set_weights([first_tokens, idf, kernel, bias])
    return strength


def _sample(token_ids, labels):
    """Returns random texts that have `MAX_TOKENS` tokens, or all if those are fewer."""
    num_tokens = token_ids.values.shape[0]
    if num_tokens <= MAX_TOKENS:
        return token_ids, labels
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[: len(labels) * MAX_TOKENS // num_tokens]
    return tf.gather(token_ids, chosen), labels[chosen]


def _pairs(token_ids):
    """Returns the different pairs of neighbours, `(2, pairs)`, and their counts."""
    tokens = token_ids.values.numpy()
    text = token_ids.value_rowids().numpy()
    pairs = np.stack([tokens[:-1], tokens[1:]])[:, text[:-1] == text[1:]]
    return np.unique(pairs, axis=1, return_counts=True)


def _assign_buckets(layer, token_ids):
    """Returns the `first_tokens` of the layer. Frequent pairs come first."""
    (first, second), counts = _pairs(token_ids)
    first_tokens = np.zeros(layer.num_buckets, "int32")
    order = np.argsort(counts, kind="stable")  # The last pair of a bucket stays.
    first, second = first[order], second[order]
    first_tokens[layer.buckets(first, second)] = first
    return first_tokens


def _count_rows(layer, token_ids):
    """Returns how often each text has each row of the layer, `(texts, rows)`."""
    num_rows = layer.vocabulary_size + layer.num_buckets
    parts = []
    for start in range(0, token_ids.shape[0], 256):
        rows = layer.rows(token_ids[start : start + 256].to_tensor()).numpy()
        text, step = np.nonzero(rows)
        ones, shape = np.ones(len(text)), (len(rows), num_rows)
        parts.append(sparse.csr_array((ones, (text, rows[text, step])), shape))
    return sparse.vstack(parts).tocsr()


def _choose_strength(features, labels, class_weights):
    """Returns the strength with the smallest log loss in cross-validation."""
    chosen = np.random.default_rng(0).permutation(len(labels))[:MAX_TEXTS]
    features, labels = features[chosen], labels[chosen]
    num_folds = min(NUM_FOLDS, np.unique(labels, return_counts=True)[1].min())
    if num_folds < 2:
        return STRENGTHS[0]
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=0)

    def loss(strength):
        total = 0.0
        for train, held_out in folds.split(features, labels):
            model = _fit_model(features[train], labels[train], class_weights, strength)
            scores = model.predict_log_proba(features[held_out])
            answers = np.searchsorted(model.classes_, labels[held_out])
            scores = scores[np.arange(len(answers)), answers]
            total -= scores @ class_weights[labels[held_out]]
        return total

    return min(STRENGTHS, key=loss)


def _fit_model(features, labels, class_weights, strength):
    """Returns a logistic regression."""
    model = LogisticRegression(C=strength, max_iter=300)
    return model.fit(features, labels, sample_weight=class_weights[labels])
