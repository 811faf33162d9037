"""`layers.LSTM` and `layers.GRU` replace Keras' layers of the same names."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import layers
from tests.layers.keras_equality import (
    MASK,
    assert_all_close,
    randomize,
    results_and_gradients,
    values,
)

ALL_OUTPUTS = {"return_sequences": True, "return_state": True}
KINDS = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "GRU-reset-before": ("GRU", {"reset_after": False}),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def make_both(request):
    """Returns a function that makes our layer and Keras' with the same arguments."""
    name, options = request.param

    def make(units=4, **arguments):
        arguments = {**options, **arguments}
        classes = getattr(layers, name), getattr(keras.layers, name)
        return [layer_class(units, **arguments) for layer_class in classes]

    return make


def random_states(layer):
    return [values(5, 4, seed=2 + i) for i, _ in enumerate(layer.state_size)]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(
    ("options", "is_masked", "has_state"),
    [
        ({}, False, False),
        ({}, False, True),
        ({}, True, False),
        ({}, True, True),
        ({"go_backwards": True}, True, True),
        ({"use_bias": False}, False, False),
    ],
    ids=["whole", "state", "mask", "mask-and-state", "backwards", "no-bias"],
)
def test_results_and_gradients(make_both, training, options, is_masked, has_state):
    results = [
        results_and_gradients(
            randomize(layer),
            values(5, 5, 3),
            random_states(layer) if has_state else (),
            training,
            tf.constant(MASK) if is_masked else None,
        )
        for layer in make_both(**options, **ALL_OUTPUTS)
    ]
    assert_all_close(*results)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"activation": None, "recurrent_activation": "hard_sigmoid"},
        {"dropout": 0.4},
        {"recurrent_dropout": 0.4},
        {"dropout": 0.4, "recurrent_dropout": 0.4, "go_backwards": True},
        # With cuDNN Keras cannot run this one.
        {"dropout": 0.4, "implementation": 1, "use_cudnn": False},
        {"unroll": True},
        {"use_cudnn": False},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_in_training(make_both, options):
    """The same seed drops the same units."""
    arguments = {**options, **ALL_OUTPUTS, "seed": 7}
    results = [
        results_and_gradients(
            randomize(layer),
            values(5, 5, 3),
            random_states(layer),
            mask=tf.constant(MASK),
        )
        for layer in make_both(**arguments)
    ]
    assert_all_close(*results)


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
def test_dropout_changes_between_calls_and_is_off_in_inference(make_both, name):
    ours, _ = make_both(**{name: 0.5}, return_sequences=True)
    plain, _ = make_both(return_sequences=True)
    for layer in (ours, plain):
        randomize(layer)
    inputs = values(5, 5, 3)
    first, second = (ours(inputs, training=True) for _ in range(2))
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_allclose(ours(inputs), plain(inputs), atol=1e-6)


@pytest.mark.parametrize("return_sequences", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("zero_output_for_mask", [False, True], ids=["keep", "zero"])
@pytest.mark.parametrize("has_state", [False, True], ids=["zeros", "state"])
def test_masked_outputs(make_both, return_sequences, zero_output_for_mask, has_state):
    ours, theirs = (
        randomize(layer)(
            values(5, 5, 3),
            initial_state=random_states(layer) if has_state else None,
            mask=MASK.astype("int32"),
        )
        for layer in make_both(
            return_sequences=return_sequences,
            zero_output_for_mask=zero_output_for_mask,
        )
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_stateful(make_both, is_compiled):
    """States carry over from batch to batch until they are reset."""
    batches = [values(5, 4, 3, seed=seed) for seed in range(3)]
    masks = [MASK[:, :4], None, MASK[:, 1:]]
    results = []
    for layer in make_both(stateful=True, **ALL_OUTPUTS):
        randomize(layer, batch=5)
        compiled = tf.function(layer) if is_compiled else layer
        pairs = zip(batches, masks, strict=True)
        outputs = [compiled(batch, mask=mask) for batch, mask in pairs]
        layer.reset_state()
        outputs.append(compiled(batches[0]))
        layer.reset_states()
        outputs.append(compiled(batches[0], training=True))
        outputs.append(list(layer.states))
        results.append(keras.tree.flatten(outputs))
    assert_all_close(*results)


def test_stateful_rejects_another_batch_size(make_both):
    ours, _ = make_both(stateful=True)
    ours(values(5, 4, 3))
    with pytest.raises(ValueError, match=r"Expected batch size: 5. Received: 2"):
        ours(values(2, 4, 3))


def test_positional_arguments_and_defaults(make_both):
    ours, theirs = make_both()
    parameters = list(inspect.signature(type(theirs)).parameters.values())[1:-1]
    defaults = [parameter.default for parameter in parameters]
    others = {"True": False, "False": True, "0.0": 0.25, "'tanh'": "relu"}
    changed = [others.get(repr(default), default) for default in defaults]
    for arguments in ([], defaults, changed):
        expected = type(theirs)(6, *arguments, name="layer").get_config()
        found = type(ours)(6, *arguments, name="layer").get_config()
        assert {key: found[key] for key in expected} == expected


def test_configuration(make_both):
    arguments = {
        "bias_regularizer": keras.regularizers.L1(0.5),
        "recurrent_constraint": "unit_norm",
        "recurrent_activation": "hard_sigmoid",
        "bias_initializer": keras.initializers.Constant(0.25),
        "dropout": 0.5,
        "stateful": True,
        "zero_output_for_mask": True,
    }
    ours, theirs = make_both(**arguments)
    config = ours.get_config()
    assert type(ours).from_config(config).get_config() == config
    assert type(ours).from_config(theirs.get_config()).get_config() == {
        **config,
        "name": theirs.name,
    }


def test_initial_weights_and_their_names(make_both):
    layers = make_both(
        name="layer",
        kernel_initializer=keras.initializers.RandomNormal(seed=1),
        recurrent_initializer=keras.initializers.Orthogonal(seed=2),
        bias_initializer=keras.initializers.RandomNormal(seed=3),
    )
    for layer in layers:
        layer.build((None, None, 3))
    ours, theirs = layers
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    assert_all_close(ours.get_weights(), theirs.get_weights(), 0)


@pytest.mark.parametrize("to_keras", [False, True], ids=["from-keras", "to-keras"])
@pytest.mark.parametrize("with_file", [False, True], ids=["arrays", "file"])
def test_exchanges_weights(make_both, to_keras, with_file, tmp_path):
    inputs = keras.Input((5, 3))
    source, target = (keras.Sequential([inputs, layer]) for layer in make_both())
    if not to_keras:
        source, target = target, source
    randomize(source.layers[0])
    if with_file:
        source.save_weights(tmp_path / "model.weights.h5")
        target.load_weights(tmp_path / "model.weights.h5")
    else:
        target.set_weights(source.get_weights())
    arrays = values(5, 5, 3)
    np.testing.assert_allclose(target(arrays), source(arrays), rtol=1e-5, atol=1e-5)


def test_initial_state_and_mask_in_a_functional_model(make_both):
    token_ids = keras.Input((5,), dtype="int32")
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    answers = []
    for layer in make_both():
        states = [keras.Input((4,)) for _ in layer.state_size]
        outputs = randomize(layer)(embedding(token_ids), initial_state=states)
        model = keras.Model([token_ids, *states], outputs)
        model = keras.models.clone_model(model)
        model.set_weights(
            [values(*w.shape, seed=i) for i, w in enumerate(model.weights)]
        )
        answers.append(model([3 * MASK.astype("int32"), *random_states(layer)]))
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)


def test_regularizers(make_both):
    arguments = {
        "kernel_regularizer": "l1",
        "recurrent_regularizer": "l2",
        "bias_regularizer": keras.regularizers.L1(0.5),
        "activity_regularizer": "l2",
    }
    losses = []
    for layer in make_both(**arguments):
        randomize(layer)(values(5, 5, 3))
        losses.append(layer.losses)
    assert len(losses[0]) == 4
    assert_all_close(*losses)


def test_constraints(make_both):
    results = []
    for layer in make_both(
        kernel_constraint="non_neg",
        recurrent_constraint=keras.constraints.MaxNorm(0.5),
        bias_constraint="non_neg",
    ):
        model = keras.Sequential([keras.Input((5, 3)), randomize(layer)])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        model.train_on_batch(values(5, 5, 3), values(5, 4, seed=1))
        results.append(layer.get_weights())
    assert_all_close(*results)
    assert results[0][0].min() == 0


@pytest.mark.parametrize("options", [{}, {"return_sequences": True}, ALL_OUTPUTS])
@pytest.mark.parametrize("is_masked", [False, True], ids=["whole", "masked"])
def test_bidirectional(make_both, options, is_masked, tmp_path):
    inputs, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    arrays = [values(5, 5, 3), MASK if is_masked else np.ones_like(MASK)]
    ours, theirs = (
        keras.Model(
            [inputs, mask],
            randomize(keras.layers.Bidirectional(layer))(inputs, mask=mask),
        )
        for layer in make_both(**options)
    )
    ours.save(tmp_path / "model.keras")
    expected = keras.tree.flatten(theirs(arrays))
    for model in (ours, keras.saving.load_model(tmp_path / "model.keras")):
        assert_all_close(keras.tree.flatten(model(arrays)), expected)


def test_sequential_with_a_known_batch(make_both):
    ours, theirs = (
        keras.Sequential([keras.Input(batch_shape=(5, 5, 3)), randomize(layer)])
        for layer in make_both()
    )
    inputs = values(5, 5, 3)
    np.testing.assert_allclose(
        ours.predict(inputs, verbose=0),
        theirs.predict(inputs, verbose=0),
        rtol=1e-5,
        atol=1e-5,
    )


def test_follows_the_mask_of_an_embedding(make_both):
    token_ids = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]])
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    layer, _ = make_both()
    outputs = layer(embedding(token_ids))
    for i, length in enumerate((3, 1)):
        expected = layer(embedding(token_ids[i : i + 1, :length]))
        np.testing.assert_allclose(outputs[i : i + 1], expected, atol=1e-6)


def test_takes_whole_numbers(make_both):
    ours, theirs = (
        randomize(layer)(np.array([[[1, 2, 3], [4, 5, 6]]])) for layer in make_both()
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [("LSTM", {}), ("LSTM", {"peepholes": True}), ("GRU", {"reset_after": False})],
    ids=["LSTM", "LSTM-peepholes", "GRU"],
)
def test_loads_files_saved_without_a_cell(name, options, tmp_path):
    """The first version of our layers held the weights itself."""
    layer_class = getattr(layers, name)
    ours, target = (layer_class(4, **options) for _ in range(2))
    randomize(ours)
    expected = [*ours.cell.weights, *ours.weights][: len(ours.weights)]

    class Old(keras.layers.Layer):
        def build(self, _):
            for weight in expected:
                self.add_weight(shape=weight.shape)

    # Keras names a layer's weights in the file after its class.
    Old.__name__ = name
    inputs = keras.Input((None, 3))
    old, first = (keras.Sequential([inputs, layer]) for layer in (Old(), ours))
    old.set_weights(expected)
    model = keras.Sequential([inputs, target])
    # Files saved since then must load afterwards, too.
    for i, saved in enumerate((old, first)):
        file = tmp_path / f"{i}.weights.h5"
        saved.save_weights(file)
        target.set_weights([0 * weight for weight in target.get_weights()])
        model.load_weights(file)
        assert_all_close(target.get_weights(), ours.get_weights(), 0)


def test_loads_a_configuration_without_reset_after():
    """The first version always reset before the product."""
    config = layers.GRU(4, reset_after=False).get_config()
    old = {key: value for key, value in config.items() if key != "reset_after"}
    assert layers.GRU.from_config(old).get_config() == config


def test_use_cudnn_asks_keras(make_both):
    ours, _ = make_both(use_cudnn=True)
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(ValueError, match="cuDNN is not supported"):
            ours(values(5, 5, 3))


@pytest.mark.parametrize("units", [0, -3, 2.5])
def test_rejects_units(make_both, units):
    with pytest.raises(ValueError, match=r"positive whole number.*Received"):
        make_both(units)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
def test_rejects_dropout(make_both, name, rate):
    with pytest.raises(ValueError, match=rf"`{name}`.* less than 1.*Received"):
        make_both(**{name: rate})


def test_rejects_inputs_without_time(make_both):
    ours, _ = make_both()
    with pytest.raises(ValueError, match="expected ndim=3, found ndim=2"):
        ours(np.zeros((2, 3)))
