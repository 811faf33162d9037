import keras
import numpy as np
import pytest

from layers import AdditiveAttention
from tests.layers.attention_examples import (
    MASK,
    check_against_keras,
    check_against_numpy,
    example,
)
from tests.layers.layer_contract import check_layer


@pytest.mark.parametrize(
    ("arguments", "query_shape", "output_shape", "weights"),
    [
        ({"units": 8}, (2, 3, 6), (2, 3, 4), 4),
        ({"units": 8, "use_bias": False}, (2, 6), (2, 4), 3),
    ],
    ids=["several steps", "single step"],
)
def test_contract(arguments, query_shape, output_shape, weights, tmp_path):
    shapes = [query_shape, (2, 5, 4)]
    check_layer(AdditiveAttention, arguments, shapes, output_shape, tmp_path, weights)


@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
def test_matches_numpy(mask):
    layer, query, values = example("additive")
    query_kernel, bias = (each.numpy() for each in layer.query_projection.weights)
    key_kernel = layer.key_projection.kernel.numpy()
    vector = layer.score.kernel.numpy()[:, 0]

    def score(query_step, value):
        return vector @ np.tanh(query_step @ query_kernel + value @ key_kernel + bias)

    check_against_numpy(layer, score, query, values, mask)


def test_equals_keras_attention_if_the_projections_are_identities():
    query, values = np.random.default_rng(0).normal(size=(2, 4, 3, 6)).astype("float32")
    layer, keras_layer = AdditiveAttention(6), keras.layers.AdditiveAttention()
    for attention in (layer, keras_layer):
        attention.build([query.shape, values.shape])
    layer.query_projection.kernel.assign(np.eye(6))
    layer.key_projection.kernel.assign(np.eye(6))
    layer.score.kernel.assign(keras_layer.scale[:, None])
    check_against_keras(layer, keras_layer, query, values)


def test_keys_are_projected_values():
    layer, _, values = example("additive")
    expected = values @ layer.key_projection.kernel.numpy()
    np.testing.assert_allclose(layer.project_keys(values), expected, atol=1e-6)


@pytest.mark.parametrize("units", [0, 2.5, "8"])
def test_rejects_units_that_are_not_a_positive_whole_number(units):
    with pytest.raises(ValueError, match="positive whole number"):
        AdditiveAttention(units)


def test_rejects_projecting_keys_between_the_layers_of_a_functional_model():
    with pytest.raises(ValueError, match="pass only the values"):
        AdditiveAttention(8).project_keys(keras.Input((None, 4)))
