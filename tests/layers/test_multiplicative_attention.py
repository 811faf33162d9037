import keras
import numpy as np
import pytest

from layers import MultiplicativeAttention
from tests.layers.attention_examples import (
    MASK,
    check_against_keras,
    check_against_numpy,
    example,
)
from tests.layers.layer_contract import check_layer


@pytest.mark.parametrize(
    ("score", "shapes", "output_shape", "weights"),
    [
        ("general", [(2, 3, 6), (2, 5, 4)], (2, 3, 4), 1),
        ("general", [(2, 6), (2, 5, 4)], (2, 4), 1),
        ("general", [(2, 3, 6), (2, 5, 4), (2, 5, 4)], (2, 3, 4), 1),
        ("dot", [(2, 3, 4), (2, 5, 4)], (2, 3, 4), 0),
    ],
    ids=["several steps", "single step", "keys", "dot"],
)
def test_contract(score, shapes, output_shape, weights, tmp_path):
    arguments = {"score": score}
    check_layer(
        MultiplicativeAttention, arguments, shapes, output_shape, tmp_path, weights
    )


@pytest.mark.parametrize("kind", ["dot", "general"])
@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
def test_matches_numpy(kind, mask):
    layer, query, values = example(kind)
    kernel = np.eye(2) if kind == "dot" else layer.query_projection.kernel.numpy()

    def score(query_step, value):
        return query_step @ kernel @ value

    check_against_numpy(layer, score, query, values, mask)


@pytest.mark.parametrize("score", ["dot", "general"])
def test_equals_keras_attention(score):
    query, values = np.random.default_rng(0).normal(size=(2, 4, 3, 6)).astype("float32")
    layer = MultiplicativeAttention(score)
    layer.build([query.shape, values.shape])
    if score == "general":
        layer.query_projection.kernel.assign(np.eye(6))
    check_against_keras(layer, keras.layers.Attention(), query, values)


def test_keys_are_the_values():
    layer, _, values = example("general")
    np.testing.assert_array_equal(layer.project_keys(values), values)


def test_keys_may_differ_in_size_from_the_values():
    query, values, keys = np.zeros((2, 6)), np.zeros((2, 5, 4)), np.zeros((2, 5, 6))
    assert MultiplicativeAttention("dot")([query, values, keys]).shape == (2, 4)


@pytest.mark.parametrize("score", ["concat", None])
def test_rejects_unknown_scores(score):
    with pytest.raises(ValueError, match='must be "dot" or "general"'):
        MultiplicativeAttention(score)


def test_rejects_the_dot_product_of_different_sizes():
    with pytest.raises(ValueError, match=r"query of size 6 and .* of size 4.*general"):
        MultiplicativeAttention("dot")([np.zeros((2, 6)), np.zeros((2, 5, 4))])
