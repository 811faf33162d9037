import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from apps.common import saved_models
from layers import LSTM
from tests.layers.layer_contract import check_layer

# Sequences of five steps: whole, padded right, padded left, with holes, empty.
MASK = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0] * 5], bool
)


@pytest.mark.parametrize(
    ("arguments", "output_shape", "weights"),
    [
        ({"units": 4}, (2, 5, 4), 3),
        ({"units": 4, "peepholes": True, "recurrent_dropout": 0.2}, (2, 5, 4), 4),
        ({"units": 4, "go_backwards": True}, (2, 4), 3),
    ],
    ids=["plain", "peepholes", "backwards"],
)
def test_contract(arguments, output_shape, weights, tmp_path):
    arguments = {**arguments, "return_sequences": len(output_shape) == 3}
    check_layer(LSTM, arguments, (2, 5, 3), output_shape, tmp_path, weights)


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer, features=3):
    """Builds a layer and gives every weight random values of its own."""
    layer.build((None, None, features))
    shapes = [weight.shape for weight in layer.weights]
    layer.set_weights([values(*shape, seed=i) / 2 for i, shape in enumerate(shapes)])
    return layer


def results_and_gradients(
    layer, inputs, state=None, training=True, steps=None, **arguments
):
    """Returns all outputs, and the gradients of inputs, states and weights.

    Of a sequence's outputs only the first `steps` count, all by default.
    """
    inputs, *state = map(tf.Variable, [inputs, *(state or [])])

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            outputs = layer(
                inputs, initial_state=state or None, training=training, **arguments
            )
            outputs = keras.tree.flatten(outputs)
            outputs[0] = outputs[0][:, :steps]
            # Every element of every output has a part of its own.
            loss = sum(
                tf.reduce_sum(output * values(*output.shape, seed=i))
                for i, output in enumerate(outputs)
            )
        weights = [weight.value for weight in layer.trainable_weights]
        return outputs, tape.gradient(loss, [inputs, *state, *weights])

    return keras.tree.flatten(compute())


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
def test_matches_keras(training, go_backwards, masked, with_state):
    options = {"return_sequences": True, "return_state": True}
    ours = randomize(LSTM(4, go_backwards=go_backwards, **options))
    theirs = keras.layers.LSTM(4, go_backwards=go_backwards, **options)
    theirs = randomize(theirs)
    theirs.set_weights(ours.get_weights())
    state = [values(5, 4, seed=2), values(5, 4, seed=3)] if with_state else None
    mask = tf.constant(MASK) if masked else None
    inputs = values(5, 5, 3)

    expected = results_and_gradients(theirs, inputs, state, mask=mask)
    found = results_and_gradients(ours, inputs, state, training, mask=mask)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
def test_last_output_matches_keras(masked, with_state):
    ours, theirs = randomize(LSTM(4)), randomize(keras.layers.LSTM(4))
    state = [values(5, 4, seed=2), values(5, 4, seed=3)] if with_state else None
    arguments = {"initial_state": state, "mask": MASK if masked else None}
    np.testing.assert_allclose(
        ours(values(5, 5, 3), **arguments),
        theirs(values(5, 5, 3), **arguments),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("options", [{}, {"return_sequences": True}])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_bidirectional_matches_keras(options, masked, tmp_path):
    layers = [
        randomize(keras.layers.Bidirectional(layer_class(4, **options)))
        for layer_class in (LSTM, keras.layers.LSTM)
    ]
    inputs = keras.Input((None, 3))
    mask = keras.Input((None,), dtype="bool")
    arrays = [values(5, 5, 3), MASK if masked else np.ones_like(MASK)]
    ours, theirs = (
        keras.Model([inputs, mask], layer(inputs, mask=mask)) for layer in layers
    )
    ours.save(tmp_path / "model.keras")
    for model in (ours, keras.saving.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(model(arrays), theirs(arrays), rtol=1e-5, atol=1e-5)


def test_follows_the_mask_of_an_embedding():
    tokens = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]])
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    layer = LSTM(4)
    outputs = layer(embedding(tokens))
    np.testing.assert_allclose(outputs[:1], layer(embedding(tokens[:1, :3])), atol=1e-6)
    np.testing.assert_allclose(outputs[1:], layer(embedding(tokens[1:, :1])), atol=1e-6)


def reference(inputs, h, c, weights):
    """All outputs and the last cell for one sequence; the gates one after the other."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    kernel, recurrent_kernel, bias, peephole_kernel = (
        weight.astype("float64") for weight in weights
    )
    units = len(h)
    outputs = []
    for x in inputs:

        def argument(gate, x=x, h=h):
            part = slice(gate * units, (gate + 1) * units)
            return x @ kernel[:, part] + h @ recurrent_kernel[:, part] + bias[part]

        i = sigmoid(argument(0) + peephole_kernel[0] * c)
        f = sigmoid(argument(1) + peephole_kernel[1] * c)
        c = f * c + i * np.tanh(argument(2))
        o = sigmoid(argument(3) + peephole_kernel[2] * c)
        h = o * np.tanh(c)
        outputs.append(h)
    return np.array(outputs), c


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("peepholes", [True, False], ids=["peepholes", "plain"])
def test_matches_numpy(peepholes, training):
    layer = LSTM(4, peepholes, return_sequences=True, return_state=True)
    weights = randomize(layer).get_weights()
    weights = weights if peepholes else [*weights, np.zeros((3, 4))]
    h, c = values(1, 4, seed=2), values(1, 4, seed=3)
    outputs, last, cell = layer(
        values(1, 7, 3), initial_state=[h, c], training=training
    )
    expected, expected_cell = reference(values(1, 7, 3)[0], h[0], c[0], weights)
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last[0], expected[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cell[0], expected_cell, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("peepholes", [True, False], ids=["peepholes", "plain"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_a_single_step_is_one_of_many(peepholes, masked, training):
    """It has no loop; a sequence of a step that counts and one that does not has."""
    layer = LSTM(4, peepholes, return_sequences=True, return_state=True)
    randomize(layer)
    state = [values(5, 4, seed=2), values(5, 4, seed=3)]
    inputs = values(5, 2, 3)
    mask = np.array([[1, 1, 0, 1, 0]], bool).T if masked else np.ones((5, 1), bool)

    single = results_and_gradients(
        layer, inputs[:, :1], state, training, mask=tf.constant(mask)
    )
    two = results_and_gradients(
        layer,
        inputs,
        state,
        training,
        mask=tf.constant(np.hstack([mask, np.zeros_like(mask)])),
        steps=1,
    )
    assert len(single) == len(two)
    for one, other in zip(single, two, strict=True):
        if other.shape == inputs.shape:  # The gradients of what is read.
            np.testing.assert_array_equal(other[:, 1:], np.zeros((5, 1, 3)))
            other = other[:, :1]
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


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
def test_gradients_agree_with_finite_differences(masked):
    # The same seed drops the same units again.
    layer = LSTM(4, peepholes=True, recurrent_dropout=0.5, dtype="float64")
    randomize(layer)
    tensors = [values(5, 5, 3), values(5, 4, seed=2), values(5, 4, seed=3)]
    tensors = [tf.Variable(tensor, dtype="float64") for tensor in tensors]
    mask = MASK if masked else None
    seed = layer.seed_generator.state.numpy()

    def loss():
        layer.seed_generator.state.assign(seed)
        outputs = layer(tensors[0], initial_state=tensors[1:], mask=mask, training=True)
        return tf.reduce_sum(outputs * values(5, 4, seed=4))

    tensors_and_weights = tensors + [weight.value for weight in layer.weights]
    with tf.GradientTape() as tape:
        result = loss()
    gradients = tape.gradient(result, tensors_and_weights)
    assert len(gradients) == 7
    for i, (variable, gradient) in enumerate(
        zip(tensors_and_weights, gradients, strict=True)
    ):
        direction = np.random.default_rng(i).normal(size=variable.shape)
        start = variable.numpy()
        ends = []
        for step in (1e-5, -1e-5):
            variable.assign(start + step * direction)
            ends.append(loss())
        variable.assign(start)
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


def test_recurrent_dropout_hides_the_same_units_at_every_step():
    layer = LSTM(64, recurrent_dropout=0.5, return_sequences=True, seed=0)
    layer.build((None, None, 3))
    inputs = np.zeros((1, 6, 3), "float32")
    # Unit k's output gate, and nothing else, depends on unit k's previous output: it
    # is open at first, and then shut unless that is hidden.
    recurrent_kernel = np.zeros((64, 256))
    recurrent_kernel[:, 192:] = -1e4 * np.eye(64)
    bias = np.repeat([5.0, 5.0, 1.0, 5.0], 64)
    layer.set_weights([np.zeros((3, 256)), recurrent_kernel, bias])
    is_open = layer(inputs, training=True).numpy()[0] > 0.1
    assert is_open[0].all()
    assert 10 < is_open[1].sum() < 54
    # Visible units shut every other time; hidden ones never do.
    np.testing.assert_array_equal(is_open[1::2], np.tile(is_open[1], (3, 1)))
    assert is_open[::2].all()
    again = layer(inputs, training=True).numpy()[0] > 0.1
    assert (again[1] != is_open[1]).any()
    np.testing.assert_array_equal(layer(inputs)[0] > 0.1, [[1] * 64, [0] * 64] * 3)


def test_bias_of_the_forget_gate():
    for unit_forget_bias in (True, False):
        layer = LSTM(2, unit_forget_bias=unit_forget_bias)
        layer.build((None, None, 3))
        expected = [0, 0, unit_forget_bias, unit_forget_bias, 0, 0, 0, 0]
        np.testing.assert_array_equal(layer.bias, expected)


@pytest.mark.parametrize("variant", ["float32", "dynamic_range"])
@pytest.mark.parametrize("return_sequences", [True, False], ids=["all", "last"])
@pytest.mark.parametrize("wrap", [keras.layers.Bidirectional, lambda layer: layer])
def test_becomes_one_operation_on_devices(wrap, return_sequences, variant, tmp_path):
    # The converter leaves weights of fewer than 1024 values, per gate, as they are.
    layer = randomize(wrap(LSTM(64, return_sequences=return_sequences)), features=20)
    layer.set_weights([weight / 4 for weight in layer.get_weights()])
    signature = tf.function(
        lambda inputs: {"outputs": layer(inputs)},
        input_signature=[tf.TensorSpec((1, None, 20), name="inputs")],
    )
    file = tmp_path / "model.tflite"
    counts = saved_models.convert(layer.variables, signature, file, variant)
    directions = len(layer.weights) // 3
    assert counts["UNIDIRECTIONAL_SEQUENCE_LSTM"] == directions
    assert "WHILE" not in counts
    if variant == "dynamic_range":
        assert file.stat().st_size < 0.4 * 4 * layer.count_params()

    # The operation must not remember the sequence before.
    runner = Interpreter(str(file)).get_signature_runner()
    tolerance = 1e-5 if variant == "float32" else 0.03
    for seed, time in enumerate([7, 7, 2, 11]):
        inputs = values(1, time, 20, seed=seed)
        answers = runner(inputs=inputs)["outputs"]
        np.testing.assert_allclose(answers, layer(inputs), atol=tolerance)


def test_runs_on_8_bit_activations_when_the_caller_resets_it(tmp_path):
    layer = randomize(LSTM(64, return_sequences=True, lite_reset=False), features=20)
    layer.set_weights([weight / 4 for weight in layer.get_weights()])
    signature = tf.function(
        lambda inputs: {"outputs": layer(inputs)},
        input_signature=[tf.TensorSpec((1, 9, 20), name="inputs")],
    )
    file = tmp_path / "model.tflite"
    examples = [{"inputs": values(1, 9, 20, seed=seed)} for seed in range(50)]
    counts = saved_models.convert(layer.variables, signature, file, "int8", examples)
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


@pytest.mark.parametrize("units", [0, -3, 2.5])
def test_refuses_units(units):
    with pytest.raises(ValueError, match=r"positive whole number.*Received"):
        LSTM(units)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_refuses_dropout(share):
    with pytest.raises(ValueError, match=r"at least 0 and less than 1.*Received"):
        LSTM(4, recurrent_dropout=share)


def test_refuses_what_is_no_sequence():
    with pytest.raises(ValueError, match="expected ndim=3, found ndim=2"):
        LSTM(4)(np.zeros((2, 3)))
