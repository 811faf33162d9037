import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from apps.common import saved_models
from layers import AdditiveAttention
from tests.layers.layer_contract import check_layer

# Sentences of five steps: whole, padded right, padded left, with a hole, empty.
MASK = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0] * 5], bool
)


@pytest.mark.parametrize(
    ("arguments", "query_shape", "output_shape", "weights"),
    [
        ({"units": 8}, (2, 3, 6), (2, 3, 4), 4),
        ({"units": 8, "use_bias": False}, (2, 6), (2, 4), 3),
    ],
    ids=["many", "single"],
)
def test_contract(arguments, query_shape, output_shape, weights, tmp_path):
    shapes = [query_shape, (2, 5, 4)]
    check_layer(AdditiveAttention, arguments, shapes, output_shape, tmp_path, weights)


def example(seed=0, dtype="float32"):
    """A layer with random weights, three queries and five values per sentence."""
    keras.utils.set_random_seed(seed)
    layer = AdditiveAttention(4, dtype=dtype)
    rng = np.random.default_rng(seed)
    query, values = rng.normal(size=(5, 3, 6)), rng.normal(size=(5, 5, 2))
    layer.build([query.shape, values.shape])
    layer.query_projection.bias.assign(rng.normal(size=4))
    return layer, query.astype("float32"), values.astype("float32")


def reference(layer, query, values, mask):
    """One pair of steps at a time, over those values alone that may be seen."""
    project, bias = (weight.numpy() for weight in layer.query_projection.weights)
    keys, vector = layer.key_projection.kernel.numpy(), layer.score.kernel.numpy()[:, 0]
    context = np.zeros((*query.shape[:2], values.shape[-1]))
    weights = np.zeros((*query.shape[:2], values.shape[1]))
    for b, i in np.ndindex(query.shape[:2]):
        steps = np.flatnonzero(mask[b])
        scores = [
            vector @ np.tanh(query[b, i] @ project + values[b, j] @ keys + bias)
            for j in steps
        ]
        for j, score in zip(steps, scores, strict=True):
            weights[b, i, j] = np.exp(score) / np.exp(scores).sum()
            context[b, i] += weights[b, i, j] * values[b, j]
    return context, weights


@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
def test_matches_numpy(mask):
    layer, query, values = example()
    results = layer([query, values], mask=mask, return_weights=True)
    everything = np.ones_like(MASK)
    expected = reference(layer, query, values, everything if mask is None else mask)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)


def test_is_keras_attention_when_the_projections_are_identities():
    rng = np.random.default_rng(0)
    query, values = rng.normal(size=(2, 4, 3, 6)).astype("float32")
    layer, peer = AdditiveAttention(6), keras.layers.AdditiveAttention()
    for attention in (layer, peer):
        attention.build([query.shape, values.shape])
    layer.query_projection.kernel.assign(np.eye(6))
    layer.key_projection.kernel.assign(np.eye(6))
    layer.score.kernel.assign(peer.scale[:, None])

    mask = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0]], bool)
    results = layer([query, values], mask=mask, return_weights=True)
    expected = peer([query, values], mask=[None, mask], return_attention_scores=True)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)


def test_a_single_step_is_a_row_of_many():
    layer, query, values = example()
    many = layer([query, values], mask=MASK, return_weights=True)
    one = layer([query[:, 1], values], mask=MASK, return_weights=True)
    for row, rows in zip(one, many, strict=True):
        np.testing.assert_allclose(row, rows[:, 1], rtol=1e-6, atol=1e-6)


def test_the_order_of_the_values_does_not_matter():
    layer, query, values = example()
    order = [3, 0, 4, 1, 2]
    context, weights = layer([query, values], mask=MASK, return_weights=True)
    again, permuted = layer(
        [query, values[:, order]], mask=MASK[:, order], return_weights=True
    )
    np.testing.assert_allclose(again, context, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        permuted, weights.numpy()[..., order], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_what_is_masked_has_no_influence(size):
    layer, query, values = example()
    hidden = np.where(MASK[..., None], values, np.float32(size))
    np.testing.assert_allclose(
        layer([query, hidden], mask=MASK),
        layer([query, values], mask=MASK),
        rtol=1e-5,
        atol=1e-6,
    )


def test_keys_may_be_projected_before_the_first_call():
    _, query, values = example()
    layer = AdditiveAttention(4)
    keys = layer.project_keys(values)
    assert keys.shape == (5, 5, 4)
    np.testing.assert_allclose(
        layer([query, values, keys]), layer([query, values]), rtol=1e-6, atol=1e-6
    )


def test_given_keys_are_used():
    layer, query, values = example()
    keys = layer.project_keys(values)
    swapped = layer([query, values, keys[:, ::-1]], return_weights=True)[1]
    weights = layer([query, values], return_weights=True)[1]
    np.testing.assert_allclose(swapped, weights[..., ::-1], rtol=1e-6, atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class StepByStep(keras.layers.Layer):
    """A decoder without memory: projects the source once, asks once per step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = AdditiveAttention(4)

    def build(self, input_shape):
        self.attention.build(input_shape)

    def call(self, inputs):
        queries, source = inputs
        keys = self.attention.project_keys(source)
        steps = [
            self.attention([queries[:, i], source, keys])
            for i in range(queries.shape[1])
        ]
        return keras.ops.stack(steps, axis=1)


def test_a_decoder_inside_a_functional_model_reloads(tmp_path):
    _, query, values = example()
    inputs = [keras.Input((3, 6)), keras.Input((None, 2))]
    decoder = StepByStep()
    model = keras.Model(inputs, decoder(inputs))
    expected = model([query, values])
    whole = decoder.attention([query, values])
    np.testing.assert_allclose(expected, whole, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded([query, values]), expected)


def test_gradients_are_those_of_finite_differences():
    layer, query, values = example(dtype="float64")
    variables = [tf.Variable(x, dtype="float64") for x in (query, values)]
    variables += [weight.value for weight in layer.trainable_weights]
    parts = np.random.default_rng(1).normal(size=(5, 3, 2))

    def loss():
        return tf.reduce_sum(layer(variables[:2], mask=MASK) * parts)

    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(
        variables, tape.gradient(value, variables), strict=True
    ):
        before = variable.numpy()
        # A few of each are enough; among the values, masked ones too.
        for index in list(np.ndindex(before.shape))[::3]:
            step = np.zeros_like(before)
            step[index] = 1e-6
            variable.assign(before + step)
            above = loss()
            variable.assign(before - step)
            slope = (above - loss()) / 2e-6
            np.testing.assert_allclose(gradient[index], slope, rtol=1e-6, atol=1e-8)
        variable.assign(before)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_empty_rows_are_zero_and_have_finite_gradients(dtype):
    layer, query, values = example(dtype=dtype)
    # Scores of some hundreds, that less the largest half-precision number overflow.
    layer.score.kernel.assign(layer.score.kernel * 200)
    variables = [tf.Variable(query), tf.Variable(values)]
    with tf.GradientTape() as tape:
        context, weights = layer(variables, mask=MASK, return_weights=True)
        loss = tf.reduce_sum(tf.cast(context, "float32") ** 2)
    assert not np.any(weights.numpy().transpose(0, 2, 1)[~MASK])
    assert not np.any(context[-1])
    sums = np.sum(weights.numpy().astype("float32"), axis=-1)
    np.testing.assert_allclose(sums[:-1], 1, atol=1e-2)
    variables += [weight.value for weight in layer.trainable_weights]
    for gradient in tape.gradient(loss, variables):
        assert np.isfinite(gradient.numpy().astype("float32")).all()


def test_a_functional_model_with_a_mask_reloads(tmp_path):
    layer, query, values = example()
    inputs = [
        keras.Input((None, 6)),
        keras.Input((None, 2)),
        keras.Input((None,), dtype="bool"),
    ]
    outputs = layer(inputs[:2], mask=inputs[2], return_weights=True)
    assert [x.shape for x in outputs] == [(None, None, 2), (None, None, None)]
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = layer([query, values], mask=MASK, return_weights=True)
    for result, value in zip(reloaded([query, values, MASK]), expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-6, atol=1e-6)


def signature_of(layer, batch, query_steps, steps):
    return tf.function(
        lambda query, values, mask: {"context": layer([query, values], mask=mask)},
        input_signature=[
            tf.TensorSpec((batch, query_steps, 6), name="query"),
            tf.TensorSpec((batch, steps, 2), name="values"),
            tf.TensorSpec((batch, steps), tf.bool, name="mask"),
        ],
    )


def test_a_saved_model_takes_masks_of_any_size(tmp_path):
    layer, query, values = example()
    signature = signature_of(layer, None, None, None)
    saved_models.save(layer.variables, {"serving_default": signature}, tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    for batch, steps in ((5, 5), (4, 3)):
        part = (query[:batch], values[:batch, :steps], MASK[:batch, :steps])
        answer = served(**dict(zip(("query", "values", "mask"), part, strict=True)))
        np.testing.assert_allclose(
            answer["context"], layer(part[:2], mask=part[2]), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(("variant", "bound"), [("float32", 1e-5), ("int8", 0.1)])
def test_lite_masks_as_well(variant, bound, tmp_path):
    layer, query, values = example()
    signature, file = signature_of(layer, 1, 3, 5), tmp_path / "model.tflite"
    examples = [
        {"query": query[i, None], "values": values[i, None], "mask": MASK[i, None]}
        for i in range(5)
    ]
    saved_models.convert(layer.variables, signature, file, variant, examples)
    runner = Interpreter(str(file)).get_signature_runner()
    answers = np.concatenate([runner(**feed)["context"] for feed in examples])
    np.testing.assert_allclose(answers, layer([query, values], mask=MASK), atol=bound)


def test_an_explicit_mask_goes_without_warning_and_ends_here():
    layer, query, values = example()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = layer([query, values], mask=MASK)
    assert getattr(context, "_keras_mask", None) is None


def test_refuses_a_mask_that_is_only_attached():
    layer, query, values = example()
    tokens = np.array([[1, 2, 0, 0, 0]] * 5)
    padded = keras.layers.Embedding(3, 2, mask_zero=True)(tokens)
    for inputs in ([query, padded], (query, padded)):
        with pytest.raises(ValueError, match="Give it as well"):
            layer(inputs)
    layer([query, padded], mask=tokens > 0)
    # What a query carries says nothing about the values.
    queries = keras.layers.Embedding(3, 6, mask_zero=True)(tokens)
    assert layer([queries, values]).shape == (5, 5, 2)


@pytest.mark.parametrize("units", [0, 2.5, "8"])
def test_refuses_units_that_are_no_positive_whole_number(units):
    with pytest.raises(ValueError, match="positive whole number"):
        AdditiveAttention(units)


@pytest.mark.parametrize(
    "shapes",
    [[(2, 6)], [(2, 5, 4), (2, 4)], [(2, 6), (2, 3, 3, 4)], [(2, 6), *[(2, 5, 4)] * 3]],
    ids=["no values", "flat values", "grid", "four"],
)
def test_refuses_other_shapes(shapes):
    with pytest.raises(ValueError, match=r"must be \[query, values\]"):
        AdditiveAttention(8)([np.zeros(shape) for shape in shapes])


def test_refuses_a_query_alone():
    with pytest.raises(ValueError, match=r"must be \[query, values\]"):
        AdditiveAttention(8)(np.zeros((2, 3, 4)))


def test_refuses_to_project_keys_between_the_layers_of_a_functional_model():
    with pytest.raises(ValueError, match="give the values alone"):
        AdditiveAttention(8).project_keys(keras.Input((None, 4)))
