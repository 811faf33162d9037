"""What every custom layer must do; one call per layer covers it."""

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from apps.common import saved_models


def check_layer(
    layer_class,
    arguments,
    input_shape,
    output_shape,
    tmp_path,
    trainable_weights=0,
    *,
    learns_from=None,
    lite=True,
):
    """Asserts shapes, gradients, configuration, saving, precision and exports.

    Args:
        layer_class: The layer.
        arguments: Its constructor arguments.
        input_shape: A shape with every size known, the batch first; a list of them if
            the layer has several inputs.
        output_shape: What it must become.
        tmp_path: A temporary directory.
        trainable_weights: How many trainable weights it must have.
        learns_from: How many inputs, from the first, gradients must reach. Defaults to
            all of them.
        lite: Whether TensorFlow Lite must be able to run it.
    """
    several = isinstance(input_shape, list)
    shapes = input_shape if several else [input_shape]

    def pack(values):
        return list(values) if several else next(iter(values))

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    inputs = pack(arrays)
    layer = layer_class(**arguments)
    outputs = layer(inputs).numpy()

    # Eager, inferred, compiled and symbolic shapes agree, with unknown sizes too.
    assert outputs.shape == output_shape
    assert tuple(layer.compute_output_shape(input_shape)) == output_shape
    compiled = tf.function(layer)(pack(map(tf.constant, arrays)))
    np.testing.assert_allclose(compiled, outputs, rtol=1e-5, atol=1e-5)
    unknown = [(*(None for _ in shape[:-1]), shape[-1]) for shape in shapes]
    symbolic = layer_class(**arguments)(pack(map(keras.KerasTensor, unknown)))
    assert len(symbolic.shape) == len(output_shape)
    assert symbolic.shape[-1] == output_shape[-1]
    assert tuple(layer.compute_output_shape(pack(unknown))) == tuple(symbolic.shape)
    assert len(layer.trainable_weights) == trainable_weights

    # Gradients reach the inputs and every weight, and are finite.
    variables = [tf.Variable(array) for array in arrays]
    with tf.GradientTape() as tape:
        # Of random parts, since some layers' outputs always sum to the same.
        parts = rng.normal(size=output_shape)
        loss = tf.reduce_sum(layer(pack(variables), training=True) ** 2 * parts)
    learning = variables[:learns_from]
    learning += [weight.value for weight in layer.trainable_weights]
    for gradient in tape.gradient(loss, learning):
        assert gradient is not None
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0

    # The configuration survives building, and keeps every argument as it came.
    config = layer.get_config()
    assert layer_class.from_config(config).get_config() == config
    assert config == {**config, **arguments}

    # A saved model reloads without custom_objects and answers the same.
    named = [
        keras.Input(batch_shape=shape, name=f"inputs_{i}")
        for i, shape in enumerate(shapes)
    ]
    model = keras.Model(named, layer(pack(named)))
    expected = model(arrays).numpy()
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(arrays), expected, rtol=1e-6, atol=1e-6)

    # Mixed precision computes in half, but keeps its weights in float32.
    half = layer_class(**arguments, dtype="mixed_float16")
    assert half(inputs).dtype == "float16"
    assert all(weight.dtype == "float32" for weight in half.weights)

    # It exports to TensorFlow Serving and to TensorFlow Lite.
    signature = tf.function(
        lambda *inputs: {"outputs": model(inputs)},
        input_signature=[
            tf.TensorSpec(shape, name=f"inputs_{i}") for i, shape in enumerate(shapes)
        ],
    )
    feed = {f"inputs_{i}": array for i, array in enumerate(arrays)}
    saved_models.save(model.variables, {"serving_default": signature}, tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    answers = served(**{name: tf.constant(array) for name, array in feed.items()})
    np.testing.assert_allclose(answers["outputs"], expected, rtol=1e-5, atol=1e-5)
    if lite:
        file = tmp_path / "model.tflite"
        saved_models.convert(model.variables, signature, file, "float32")
        runner = Interpreter(str(file)).get_signature_runner()
        np.testing.assert_allclose(
            runner(**feed)["outputs"], expected, rtol=1e-4, atol=1e-4
        )
