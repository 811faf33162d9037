"""See `test_recurrence.py` for what holds for `LSTM` and `GRU` alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from apps.common import lite
from layers import LSTM
from tests.layers.keras_equality import (
    MASK,
    assert_all_close,
    randomize,
    results_and_gradients,
    values,
)
from tests.layers.layer_contract import check_layer


@pytest.mark.parametrize(
    ("arguments", "output_shape", "weights"),
    [
        ({"units": 4, "dropout": 0.2}, (2, 5, 4), 3),
        ({"units": 4, "peepholes": True, "recurrent_dropout": 0.2}, (2, 5, 4), 4),
        ({"units": 4, "go_backwards": True}, (2, 4), 3),
    ],
    ids=["plain", "peepholes", "backwards"],
)
def test_contract(arguments, output_shape, weights, tmp_path):
    arguments = {**arguments, "return_sequences": len(output_shape) == 3}
    check_layer(LSTM, arguments, (2, 5, 3), output_shape, tmp_path, weights)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(
    ("options", "activation"),
    [({}, np.tanh), ({"activation": "relu", "unroll": True}, lambda x: np.fmax(x, 0))],
    ids=["default", "relu"],
)
def test_peepholes_match_numpy(options, activation, training):
    layer = LSTM(4, peepholes=True, return_sequences=True, return_state=True, **options)
    randomize(layer)
    p_i, p_f, p_o = layer.peephole_kernel.numpy()
    kernel, recurrent_kernel, bias = layer.cell.get_weights()
    inputs, h, c = values(1, 7, 3), values(1, 4, seed=2), values(1, 4, seed=3)
    found = layer(inputs, initial_state=[h, c], training=training)
    outputs = []
    for x in inputs[0]:
        i, f, g, o = np.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=1)
        i, f = sigmoid(i + p_i * c), sigmoid(f + p_f * c)
        c = f * c + i * activation(g)
        h = sigmoid(o + p_o * c) * activation(c)
        outputs.append(h)
    assert_all_close(found, [np.stack(outputs, 1), h, c])


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("peepholes", [True, False], ids=["peepholes", "plain"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_a_single_step_equals_the_first_of_two(peepholes, masked, training):
    """A single step has no loop. The second of two steps is masked."""
    layer = LSTM(4, peepholes=peepholes, return_sequences=True, return_state=True)
    randomize(layer)
    state = [values(5, 4, seed=2), values(5, 4, seed=3)]
    inputs = values(5, 2, 3)
    mask = np.array([[1, 1, 0, 1, 0]], bool).T if masked else np.ones((5, 1), bool)
    both = np.hstack([mask, np.zeros_like(mask)])

    single = results_and_gradients(
        layer, inputs[:, :1], state, training, tf.constant(mask)
    )
    two = results_and_gradients(
        layer, inputs, state, training, tf.constant(both), max_steps=1
    )
    # After the output, h and c comes the gradient of the inputs.
    np.testing.assert_array_equal(two[3][:, 1:], np.zeros((5, 1, 3)))
    two[3] = two[3][:, :1]
    assert_all_close(single, two)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_a_single_step_has_no_loop(training):
    layer = randomize(LSTM(4))

    def operations(steps):
        spec = tf.TensorSpec((None, steps, 3))
        function = tf.function(lambda x: layer(x, training=training))
        graph = function.get_concrete_function(spec).graph
        names = {node.op for node in graph.as_graph_def().node}
        for each in graph.as_graph_def().library.function:
            names |= {node.op for node in each.node_def}
        return names

    assert not [name for name in operations(1) if "While" in name]
    assert [name for name in operations(2) if "While" in name]


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_gradients_of_peepholes_agree_with_finite_differences(masked):
    layer = LSTM(4, peepholes=True, recurrent_dropout=0.5, dtype="float64")
    randomize(layer)
    inputs, *state = (
        tf.Variable(array, dtype="float64")
        for array in (values(5, 5, 3), values(5, 4, seed=2), values(5, 4, seed=3))
    )
    seed_state = layer.cell.seed_generator.state
    seed = seed_state.numpy()

    def loss():
        seed_state.assign(seed)  # The same seed drops the same units.
        outputs = layer(
            inputs, initial_state=state, mask=MASK if masked else None, training=True
        )
        return tf.reduce_sum(outputs * values(5, 4, seed=4))

    variables = [inputs, *state, *(weight.value for weight in layer.weights)]
    with tf.GradientTape() as tape:
        result = loss()
    gradients = tape.gradient(result, variables)
    assert len(gradients) == 7
    for i, (variable, gradient) in enumerate(zip(variables, gradients, strict=True)):
        direction = np.random.default_rng(i).normal(size=variable.shape)
        start = variable.numpy()
        ends = []
        for step in (1e-5, -1e-5):
            variable.assign(start + step * direction)
            ends.append(loss())
        variable.assign(start)
        slope = (ends[0] - ends[1]) / 2e-5
        derivative = np.sum(gradient * direction)
        np.testing.assert_allclose(derivative, slope, rtol=1e-6, atol=1e-8)


def test_bias_of_the_forget_gate():
    for unit_forget_bias in (True, False):
        layer = LSTM(2, unit_forget_bias=unit_forget_bias)
        layer.build((None, None, 3))
        expected = [0, 0, unit_forget_bias, unit_forget_bias, 0, 0, 0, 0]
        np.testing.assert_array_equal(layer.cell.bias, expected)


@pytest.mark.parametrize("variant", ["float32", "dynamic_range"])
@pytest.mark.parametrize("return_sequences", [True, False], ids=["all", "last"])
@pytest.mark.parametrize("wrap", [keras.layers.Bidirectional, lambda layer: layer])
def test_becomes_one_operation_in_tensorflow_lite(
    wrap, return_sequences, variant, tmp_path
):
    # The converter does not quantize weights with fewer than 1024 values per gate.
    layer = randomize(wrap(LSTM(64, return_sequences=return_sequences)), features=20)
    layer.set_weights([weight / 4 for weight in layer.get_weights()])
    signature = tf.function(
        lambda inputs: {"outputs": layer(inputs)},
        input_signature=[tf.TensorSpec((1, None, 20), name="inputs")],
    )
    file = tmp_path / "model.tflite"
    counts = lite.convert(
        layer.variables, {"serving_default": signature}, file, variant
    )
    directions = len(layer.weights) // 3
    assert counts["UNIDIRECTIONAL_SEQUENCE_LSTM"] == directions
    assert "WHILE" not in counts
    if variant == "dynamic_range":
        assert file.stat().st_size < 0.4 * 4 * layer.count_params()

    # The operation must not keep the state of the previous sequence.
    runner = Interpreter(str(file)).get_signature_runner()
    tolerance = 1e-5 if variant == "float32" else 0.03
    for seed, time in enumerate([7, 7, 2, 11]):
        inputs = values(1, time, 20, seed=seed)
        answers = runner(inputs=inputs)["outputs"]
        np.testing.assert_allclose(answers, layer(inputs), atol=tolerance)


@pytest.mark.parametrize(
    ("options", "is_fused"),
    [
        ({"use_bias": False}, True),
        ({"stateful": True}, False),
        ({"unroll": True}, False),
    ],
    ids=["no-bias", "stateful", "unroll"],
)
def test_options_in_a_graph(options, is_fused):
    layer = randomize(LSTM(4, **options), batch=2)
    function = tf.function(lambda inputs: layer(inputs), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec((2, 5, 3))).graph
    functions = graph.as_graph_def().library.function
    assert any("api_implements" in each.attr for each in functions) == is_fused
    plain = randomize(keras.layers.LSTM(4, **options), batch=2)
    inputs = values(2, 5, 3)
    np.testing.assert_allclose(function(inputs), plain(inputs), rtol=1e-5, atol=1e-6)


def test_runs_with_8_bit_activations_if_the_caller_resets_it(tmp_path):
    layer = randomize(LSTM(64, return_sequences=True, lite_reset=False), features=20)
    layer.set_weights([weight / 4 for weight in layer.get_weights()])
    signature = tf.function(
        lambda inputs: {"outputs": layer(inputs)},
        input_signature=[tf.TensorSpec((1, 9, 20), name="inputs")],
    )
    file = tmp_path / "model.tflite"
    examples = [{"inputs": values(1, 9, 20, seed=seed)} for seed in range(50)]
    signatures = {"serving_default": signature}
    counts = lite.convert(layer.variables, signatures, file, "int8", lambda: examples)
    assert counts["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    for example in examples[:3]:
        interpreter.reset_all_variables()
        answers = runner(**example)["outputs"]
        np.testing.assert_allclose(answers, layer(example["inputs"]), atol=0.05)


def test_compiles_with_unknown_sizes_in_mixed_precision():
    layer = LSTM(4, return_sequences=True, dtype="mixed_float16")
    inputs, mask = values(5, 5, 3), tf.constant(MASK)
    specs = [tf.TensorSpec((None, None, 3)), tf.TensorSpec((None, None), "bool")]

    @tf.function(input_signature=specs)
    def step(inputs, mask):
        with tf.GradientTape() as tape:
            outputs = layer(inputs, mask=mask, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, "float32") ** 2)
        return outputs, tape.gradient(loss, [w.value for w in layer.weights])

    outputs, gradients = step(inputs, mask)
    assert outputs.dtype == "float16"
    exact = LSTM(4, return_sequences=True)
    exact.build((None, None, 3))
    exact.set_weights(layer.get_weights())
    np.testing.assert_allclose(outputs, exact(inputs, mask=mask), atol=5e-3)
    assert all(gradient.dtype == "float32" for gradient in gradients)
