import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import GRU
from tests.layers.layer_contract import check_layer

# Sequences of five steps: whole, padded right, padded left, with holes, empty.
MASK = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0] * 5], bool
)


@pytest.mark.parametrize(
    ("arguments", "output_shape"),
    [
        ({"return_sequences": True, "recurrent_dropout": 0.2}, (2, 5, 4)),
        ({"go_backwards": True}, (2, 4)),
    ],
    ids=["all", "last"],
)
def test_contract(arguments, output_shape, tmp_path):
    check_layer(GRU, {"units": 4, **arguments}, (2, 5, 3), output_shape, tmp_path, 3)


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer):
    """Builds a layer for three features and gives every weight random values."""
    layer.build((None, None, 3))
    shapes = [weight.shape for weight in layer.weights]
    layer.set_weights([values(*shape, seed=i) / 2 for i, shape in enumerate(shapes)])
    return layer


def results_and_gradients(layer, inputs, state=None, training=True, **arguments):
    """Returns all outputs, and the gradients of inputs, state and weights."""
    variables = [
        tf.Variable(tensor) for tensor in (inputs, state) if tensor is not None
    ]
    inputs, *state = variables

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            outputs = layer(
                inputs, initial_state=state or None, training=training, **arguments
            )
            # Every element of every output has a part of its own.
            loss = sum(
                tf.reduce_sum(output * values(*output.shape, seed=i))
                for i, output in enumerate(outputs)
            )
        weights = [weight.value for weight in layer.trainable_weights]
        return outputs, tape.gradient(loss, [*variables, *weights])

    return keras.tree.flatten(compute())


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
def test_matches_keras(training, go_backwards, masked, with_state):
    options = {
        "go_backwards": go_backwards,
        "return_sequences": True,
        "return_state": True,
    }
    ours = randomize(GRU(4, **options))
    theirs = randomize(keras.layers.GRU(4, reset_after=False, **options))
    state = values(5, 4, seed=2) if with_state else None
    mask = tf.constant(MASK) if masked else None
    inputs = values(5, 5, 3)

    expected = results_and_gradients(theirs, inputs, state, mask=mask)
    found = results_and_gradients(ours, inputs, state, training, mask=mask)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
def test_last_output_matches_keras(masked, with_state):
    ours, theirs = (
        randomize(layer)(
            values(5, 5, 3),
            initial_state=values(5, 4, seed=2) if with_state else None,
            mask=MASK if masked else None,
        )
        for layer in (GRU(4), keras.layers.GRU(4, reset_after=False))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("return_sequences", [True, False], ids=["all", "last"])
def test_bidirectional_matches_keras(return_sequences, tmp_path):
    options = {"return_sequences": return_sequences}
    wrapped = [GRU(4, **options), keras.layers.GRU(4, reset_after=False, **options)]
    inputs, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    ours, theirs = (
        keras.Model(
            [inputs, mask],
            randomize(keras.layers.Bidirectional(layer))(inputs, mask=mask),
        )
        for layer in wrapped
    )
    ours.save(tmp_path / "model.keras")
    arrays = [values(5, 5, 3), MASK]
    for model in (ours, keras.saving.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(model(arrays), theirs(arrays), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_matches_numpy(training):
    layer = randomize(GRU(4, return_sequences=True))
    kernels, recurrent_kernels, biases = (
        np.split(weight.astype("float64"), 3, axis=-1) for weight in layer.get_weights()
    )
    inputs, h = values(1, 7, 3), values(1, 4, seed=2)
    outputs = layer(inputs, initial_state=h, training=training)
    for x, output in zip(inputs[0], outputs[0], strict=True):
        arguments = [x @ w + b for w, b in zip(kernels, biases, strict=True)]
        z = 1 / (1 + np.exp(-arguments[0] - h @ recurrent_kernels[0]))
        r = 1 / (1 + np.exp(-arguments[1] - h @ recurrent_kernels[1]))
        g = np.tanh(arguments[2] + (r * h) @ recurrent_kernels[2])
        h = z * h + (1 - z) * g
        np.testing.assert_allclose(output, h[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_gradients_agree_with_finite_differences(masked):
    layer = randomize(GRU(4, recurrent_dropout=0.5, dtype="float64"))
    variables = [
        tf.Variable(array, dtype="float64")
        for array in (values(5, 5, 3), values(5, 4, seed=2))
    ]
    inputs, state = variables
    variables += [weight.value for weight in layer.weights]
    seed = layer.seed_generator.state.numpy()

    def loss():
        # The same seed hides the same units again.
        layer.seed_generator.state.assign(seed)
        mask = MASK if masked else None
        outputs = layer(inputs, initial_state=state, mask=mask, training=True)
        return tf.reduce_sum(outputs * values(5, 4, seed=4))

    with tf.GradientTape() as tape:
        result = loss()
    gradients = tape.gradient(result, variables)
    for i, (variable, gradient) in enumerate(zip(variables, gradients, strict=True)):
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
    layer = GRU(64, recurrent_dropout=0.5, return_sequences=True, seed=0)
    layer.build((None, None, 3))
    # Each unit takes the candidate, which is high at first and, unless the unit is
    # hidden from it, low after a high state.
    recurrent_kernel = np.zeros((64, 192))
    recurrent_kernel[:, 128:] = -10 * np.eye(64)
    bias = np.repeat([-50.0, 50.0, 2.0], 64)
    layer.set_weights([np.zeros((3, 192)), recurrent_kernel, bias])
    inputs = np.zeros((1, 6, 3), "float32")
    is_high = layer(inputs, training=True).numpy()[0] > 0
    assert 10 < is_high[1].sum() < 54
    assert is_high[::2].all()
    np.testing.assert_array_equal(is_high[1::2], np.tile(is_high[1], (3, 1)))
    np.testing.assert_array_equal(layer(inputs)[0] > 0, [[1] * 64, [0] * 64] * 3)


@pytest.mark.parametrize("units", [0, -3, 2.5])
def test_refuses_units(units):
    with pytest.raises(ValueError, match=r"positive whole number.*Received"):
        GRU(units)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_refuses_dropout(share):
    with pytest.raises(ValueError, match=r"at least 0 and less than 1.*Received"):
        GRU(4, recurrent_dropout=share)


def test_refuses_what_is_no_sequence():
    with pytest.raises(ValueError, match="expected ndim=3, found ndim=2"):
        GRU(4)(np.zeros((2, 3)))
