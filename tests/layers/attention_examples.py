"""Examples and a NumPy reference for the tests of both attention layers."""

import keras
import numpy as np

from layers import AdditiveAttention, MultiplicativeAttention

LAYERS = {
    "additive": lambda **kwargs: AdditiveAttention(4, **kwargs),
    "general": lambda **kwargs: MultiplicativeAttention("general", **kwargs),
    "dot": lambda **kwargs: MultiplicativeAttention("dot", **kwargs),
}
# Sequences of five steps: no padding, right, left, a hole, only padding.
MASK = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0] * 5], bool
)


def example(kind, dtype="float32"):
    """Returns a built layer, three query steps and five values for each sequence."""
    keras.utils.set_random_seed(0)
    layer = LAYERS[kind](dtype=dtype)
    rng = np.random.default_rng(0)
    query = rng.normal(size=(5, 3, 2 if kind == "dot" else 6))
    values = rng.normal(size=(5, 5, 2))
    layer.build([query.shape, values.shape])
    if kind == "additive":
        layer.query_projection.bias.assign(rng.normal(size=4))
    return layer, query.astype("float32"), values.astype("float32")


def check_against_numpy(layer, score, query, values, mask):
    """Compares context and weights with a reference that loops over pairs of steps.

    Args:
        layer: The attention layer.
        score: Function that returns the score of one query step and one value.
        query: `(batch, query_steps, query_size)`.
        values: `(batch, steps, size)`.
        mask: Boolean `(batch, steps)`, or None.
    """
    context = np.zeros((*query.shape[:2], values.shape[-1]))
    weights = np.zeros((*query.shape[:2], values.shape[1]))
    for b, i in np.ndindex(query.shape[:2]):
        steps = range(values.shape[1]) if mask is None else np.flatnonzero(mask[b])
        scores = [score(query[b, i], values[b, j]) for j in steps]
        for j, step_score in zip(steps, scores, strict=True):
            weights[b, i, j] = np.exp(step_score) / np.exp(scores).sum()
            context[b, i] += weights[b, i, j] * values[b, j]
    results = layer([query, values], mask=mask, return_weights=True)
    assert_all_close(results, [context, weights])


def check_against_keras(layer, keras_layer, query, values):
    """Compares context and weights of a layer with those of Keras' own layer."""
    mask = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0]], bool)
    results = layer([query, values], mask=mask, return_weights=True)
    expected = keras_layer(
        [query, values], mask=[None, mask], return_attention_scores=True
    )
    assert_all_close(results, expected)


def assert_all_close(results, expected):
    """Compares several arrays, such as context and weights."""
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)
