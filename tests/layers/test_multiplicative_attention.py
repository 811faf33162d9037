import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from apps.common import saved_models
from layers import MultiplicativeAttention
from tests.layers.layer_contract import check_layer

# Sentences of five steps: whole, padded right, padded left, with a hole, empty.
MASK = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0] * 5], bool
)


@pytest.mark.parametrize(
    ("score", "query_shape", "output_shape", "weights"),
    [
        ("general", (2, 3, 6), (2, 3, 4), 1),
        ("general", (2, 6), (2, 4), 1),
        ("dot", (2, 3, 4), (2, 3, 4), 0),
    ],
    ids=["many", "single", "dot"],
)
def test_contract(score, query_shape, output_shape, weights, tmp_path):
    shapes, arguments = [query_shape, (2, 5, 4)], {"score": score}
    check_layer(
        MultiplicativeAttention, arguments, shapes, output_shape, tmp_path, weights
    )


def test_contract_with_keys(tmp_path):
    shapes = [(2, 3, 6), (2, 5, 4), (2, 5, 4)]
    arguments = {"score": "general"}
    check_layer(MultiplicativeAttention, arguments, shapes, (2, 3, 4), tmp_path, 1)


def example(score="general", dtype="float32"):
    """A layer with random weights, three queries and five values per sentence."""
    keras.utils.set_random_seed(0)
    layer = MultiplicativeAttention(score, dtype=dtype)
    rng = np.random.default_rng(0)
    query = rng.normal(size=(5, 3, 6 if score == "general" else 2))
    values = rng.normal(size=(5, 5, 2))
    layer.build([query.shape, values.shape])
    return layer, query.astype("float32"), values.astype("float32")


def reference(layer, query, values, mask):
    """One pair of steps at a time, over those values alone that may be seen."""
    matrix = np.eye(2)
    if layer.score == "general":
        matrix = layer.query_projection.kernel.numpy()
    context = np.zeros((*query.shape[:2], values.shape[-1]))
    weights = np.zeros((*query.shape[:2], values.shape[1]))
    for b, i in np.ndindex(query.shape[:2]):
        steps = np.flatnonzero(mask[b])
        scores = [query[b, i] @ matrix @ values[b, j] for j in steps]
        for j, score in zip(steps, scores, strict=True):
            weights[b, i, j] = np.exp(score) / np.exp(scores).sum()
            context[b, i] += weights[b, i, j] * values[b, j]
    return context, weights


@pytest.mark.parametrize("score", ["dot", "general"])
@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
def test_matches_numpy(score, mask):
    layer, query, values = example(score)
    results = layer([query, values], mask=mask, return_weights=True)
    everything = np.ones_like(MASK)
    expected = reference(layer, query, values, everything if mask is None else mask)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("score", ["dot", "general"])
def test_is_keras_attention(score):
    rng = np.random.default_rng(0)
    query, values = rng.normal(size=(2, 4, 3, 6)).astype("float32")
    layer = MultiplicativeAttention(score)
    layer.build([query.shape, values.shape])
    if score == "general":
        layer.query_projection.kernel.assign(np.eye(6))

    mask = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0]], bool)
    results = layer([query, values], mask=mask, return_weights=True)
    expected = keras.layers.Attention()(
        [query, values], mask=[None, mask], return_attention_scores=True
    )
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


def test_keys_are_the_values():
    _, query, values = example()
    layer = MultiplicativeAttention("general")
    keys = layer.project_keys(values)
    np.testing.assert_array_equal(layer([query, values, keys]), layer([query, values]))


def test_given_keys_are_used():
    layer, query, values = example()
    swapped = layer([query, values, values[:, ::-1]], return_weights=True)[1]
    weights = layer([query, values], return_weights=True)[1]
    np.testing.assert_allclose(swapped, weights[..., ::-1], rtol=1e-6, atol=1e-6)


def test_keys_may_have_a_size_of_their_own():
    query, values, keys = np.zeros((2, 6)), np.zeros((2, 5, 4)), np.zeros((2, 5, 6))
    assert MultiplicativeAttention("dot")([query, values, keys]).shape == (2, 4)


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
    kernel = layer.query_projection.kernel
    kernel.assign(kernel * 100)
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


@pytest.mark.parametrize("score", ["concat", None])
def test_refuses_other_scores(score):
    with pytest.raises(ValueError, match='must be "dot" or "general"'):
        MultiplicativeAttention(score)


def test_refuses_the_dot_product_of_different_sizes():
    with pytest.raises(ValueError, match=r"query of 6 and .* of 4.*general"):
        MultiplicativeAttention("dot")([np.zeros((2, 6)), np.zeros((2, 5, 4))])


@pytest.mark.parametrize(
    "shapes",
    [[(2, 6)], [(2, 5, 4), (2, 4)], [(2, 6), (2, 3, 3, 4)], [(2, 6), *[(2, 5, 4)] * 3]],
    ids=["no values", "flat values", "grid", "four"],
)
def test_refuses_other_shapes(shapes):
    with pytest.raises(ValueError, match=r"must be \[query, values\]"):
        MultiplicativeAttention("general")([np.zeros(shape) for shape in shapes])


def test_refuses_a_query_alone():
    with pytest.raises(ValueError, match=r"must be \[query, values\]"):
        MultiplicativeAttention("general")(np.zeros((2, 3, 4)))
