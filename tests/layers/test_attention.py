"""Tests that both attention layers must pass."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers.attention_examples import LAYERS, MASK, assert_all_close, example
from tests.layers.layer_contract import convert, export


@pytest.fixture(params=["additive", "general"])
def kind(request):
    return request.param


def test_a_single_query_step_gets_the_same_result_as_one_of_several(kind):
    layer, query, values = example(kind)
    several = layer([query, values], mask=MASK, return_weights=True)
    single = layer([query[:, 1], values], mask=MASK, return_weights=True)
    assert_all_close(single, [result[:, 1] for result in several])


def test_the_order_of_the_values_does_not_matter(kind):
    layer, query, values = example(kind)
    order = [3, 0, 4, 1, 2]
    context, weights = layer([query, values], mask=MASK, return_weights=True)
    permuted = layer(
        [query, values[:, order]], mask=MASK[:, order], return_weights=True
    )
    assert_all_close(permuted, [context, weights.numpy()[..., order]])


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_masked_values_have_no_influence(kind, size):
    layer, query, values = example(kind)
    changed = np.where(MASK[..., None], values, np.float32(size))
    results = layer([query, changed], mask=MASK, return_weights=True)
    assert_all_close(results, layer([query, values], mask=MASK, return_weights=True))


def test_keys_may_be_projected_before_the_first_call(kind):
    _, query, values = example(kind)
    layer = LAYERS[kind]()
    keys = layer.project_keys(values)
    results = layer([query, values, keys], return_weights=True)
    assert_all_close(results, layer([query, values], return_weights=True))


def test_keys_decide_the_weights(kind):
    layer, query, values = example(kind)
    keys = layer.project_keys(values)
    _, reversed_weights = layer([query, values, keys[:, ::-1]], return_weights=True)
    _, weights = layer([query, values], return_weights=True)
    np.testing.assert_allclose(
        reversed_weights, weights[..., ::-1], rtol=1e-6, atol=1e-6
    )


@keras.saving.register_keras_serializable(package="tests")
class Decoder(keras.layers.Layer):
    """Projects the source once, and attends to it once for each query step."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.attention = LAYERS[kind]()

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

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def test_a_decoder_inside_a_functional_model_reloads(kind, tmp_path):
    _, query, values = example(kind)
    inputs = [keras.Input((3, 6)), keras.Input((None, 2))]
    decoder = Decoder(kind)
    model = keras.Model(inputs, decoder(inputs))
    expected = model([query, values])
    all_steps = decoder.attention([query, values])
    np.testing.assert_allclose(expected, all_steps, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded([query, values]), expected)


def test_gradients_equal_finite_differences(kind):
    layer, query, values = example(kind, dtype="float64")
    variables = [tf.Variable(x, dtype="float64") for x in (query, values)]
    variables += [weight.value for weight in layer.trainable_weights]
    factors = np.random.default_rng(1).normal(size=(5, 3, 2))

    def loss():
        return tf.reduce_sum(layer(variables[:2], mask=MASK) * factors)

    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(
        variables, tape.gradient(value, variables), strict=True
    ):
        before = variable.numpy()
        # Every third element, masked values included.
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
def test_masked_sequences_get_zeros_and_finite_gradients(kind, dtype):
    layer, query, values = example(kind, dtype=dtype)
    # Scores of several hundred: adding the lowest float16 number would overflow.
    kernel, factor = (
        (layer.score.kernel, 200)
        if kind == "additive"
        else (layer.query_projection.kernel, 100)
    )
    kernel.assign(kernel * factor)
    variables = [tf.Variable(query), tf.Variable(values)]
    with tf.GradientTape() as tape:
        context, weights = layer(variables, mask=MASK, return_weights=True)
        loss = tf.reduce_sum(tf.cast(context, "float32") ** 2)
    assert not np.any(weights.numpy().transpose(0, 2, 1)[~MASK])
    assert not np.any(context[-1])
    totals = np.sum(weights.numpy().astype("float32"), axis=-1)
    np.testing.assert_allclose(totals[:-1], 1, atol=1e-2)
    variables += [weight.value for weight in layer.trainable_weights]
    for gradient in tape.gradient(loss, variables):
        assert np.isfinite(gradient.numpy().astype("float32")).all()


def test_a_functional_model_with_a_mask_reloads(kind, tmp_path):
    layer, query, values = example(kind)
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
    assert_all_close(reloaded([query, values, MASK]), expected)


def signature_of(layer, batch, query_steps, steps):
    return tf.function(
        lambda query, values, mask: {"context": layer([query, values], mask=mask)},
        input_signature=[
            tf.TensorSpec((batch, query_steps, 6), name="query"),
            tf.TensorSpec((batch, steps, 2), name="values"),
            tf.TensorSpec((batch, steps), tf.bool, name="mask"),
        ],
    )


def test_a_saved_model_accepts_masks_of_any_size(kind, tmp_path):
    layer, query, values = example(kind)
    signature = signature_of(layer, None, None, None)
    served = export(signature, layer.variables, tmp_path / "1")
    for batch, steps in ((5, 5), (4, 3)):
        part = (query[:batch], values[:batch, :steps], MASK[:batch, :steps])
        answer = served(**dict(zip(("query", "values", "mask"), part, strict=True)))
        np.testing.assert_allclose(
            answer["context"], layer(part[:2], mask=part[2]), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(("variant", "bound"), [("float32", 1e-5), ("int8", 0.1)])
def test_lite_models_apply_the_mask(kind, variant, bound, tmp_path):
    layer, query, values = example(kind)
    examples = [
        {"query": query[i, None], "values": values[i, None], "mask": MASK[i, None]}
        for i in range(5)
    ]
    signature, file = signature_of(layer, 1, 3, 5), tmp_path / "model.tflite"
    runner = convert(signature, layer.variables, file, variant, examples)
    answers = np.concatenate([runner(**feed)["context"] for feed in examples])
    np.testing.assert_allclose(answers, layer([query, values], mask=MASK), atol=bound)


def test_a_given_mask_causes_no_warning_and_is_not_attached_to_the_context(kind):
    layer, query, values = example(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = layer([query, values], mask=MASK)
    assert getattr(context, "_keras_mask", None) is None


def test_rejects_a_mask_that_is_attached_but_not_given(kind):
    layer, query, values = example(kind)
    token_ids = np.array([[1, 2, 0, 0, 0]] * 5)
    padded = keras.layers.Embedding(3, 2, mask_zero=True)(token_ids)
    for inputs in ([query, padded], (query, padded)):
        with pytest.raises(ValueError, match=r"Pass it: attention\("):
            layer(inputs)
    layer([query, padded], mask=token_ids > 0)
    # A mask of the query does not concern the values.
    padded_query = keras.layers.Embedding(3, 6, mask_zero=True)(token_ids)
    assert layer([padded_query, values]).shape == (5, 5, 2)


@pytest.mark.parametrize(
    "shapes",
    [
        (2, 3, 4),
        [(2, 6)],
        [(2, 5, 4), (2, 4)],
        [(2, 6), (2, 3, 3, 4)],
        [(2, 6), *[(2, 5, 4)] * 3],
    ],
    ids=["no list", "no values", "values without steps", "grid", "four inputs"],
)
def test_rejects_other_inputs(kind, shapes):
    is_list = isinstance(shapes, list)
    inputs = [np.zeros(shape) for shape in shapes] if is_list else np.zeros(shapes)
    with pytest.raises(ValueError, match=r"must be \[query, values\]"):
        LAYERS[kind]()(inputs)
