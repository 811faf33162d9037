"""What every custom layer must do; one call per layer covers it."""

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from apps.common import saved_models


def check_layer(
    layer_class, arguments, input_shape, output_shape, tmp_path, trainable_weights=0
):
    """Asserts shapes, gradients, configuration, saving, precision and exports.

    Args:
        layer_class: The layer.
        arguments: Its constructor arguments.
        input_shape: A shape with every size known, the batch first.
        output_shape: What it must become.
        tmp_path: A temporary directory.
        trainable_weights: How many trainable weights it must have.
    """
    inputs = np.random.default_rng(0).normal(size=input_shape).astype("float32")
    layer = layer_class(**arguments)
    outputs = layer(inputs).numpy()

    # Eager, inferred, compiled and symbolic shapes agree, with unknown sizes too.
    assert outputs.shape == output_shape
    assert tuple(layer.compute_output_shape(input_shape)) == output_shape
    compiled = tf.function(layer)(tf.constant(inputs))
    np.testing.assert_allclose(compiled, outputs, rtol=1e-5, atol=1e-5)
    unknown = (*(None for _ in input_shape[:-1]), input_shape[-1])
    symbolic = layer_class(**arguments)(keras.KerasTensor(unknown))
    assert len(symbolic.shape) == len(output_shape)
    assert symbolic.shape[-1] == output_shape[-1]
    assert tuple(layer.compute_output_shape(unknown)) == tuple(symbolic.shape)
    assert len(layer.trainable_weights) == trainable_weights

    # Gradients reach the inputs and every weight, and are finite.
    x = tf.Variable(inputs)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True) ** 2)
    variables = [x, *(weight.value for weight in layer.trainable_weights)]
    for gradient in tape.gradient(loss, variables):
        assert gradient is not None
        assert np.isfinite(gradient).all()

    # The configuration survives building, and keeps every argument as it came.
    config = layer.get_config()
    assert layer_class.from_config(config).get_config() == config
    assert config == {**config, **arguments}

    # A saved model reloads without custom_objects and answers the same.
    model = keras.Sequential(
        [keras.Input(batch_shape=input_shape, name="inputs"), layer]
    )
    expected = model(inputs).numpy()
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(inputs), expected, rtol=1e-6, atol=1e-6)

    # Mixed precision computes in half, but keeps its weights in float32.
    half = layer_class(**arguments, dtype="mixed_float16")
    assert half(inputs).dtype == "float16"
    assert all(weight.dtype == "float32" for weight in half.weights)

    # It exports to TensorFlow Serving and to TensorFlow Lite.
    signature = tf.function(
        lambda inputs: {"outputs": model(inputs)},
        input_signature=[tf.TensorSpec(input_shape, name="inputs")],
    )
    saved_models.save(model.variables, {"serving_default": signature}, tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    np.testing.assert_allclose(
        served(inputs=tf.constant(inputs))["outputs"], expected, rtol=1e-5, atol=1e-5
    )
    saved_models.convert(
        model.variables, signature, tmp_path / "model.tflite", "float32"
    )
    lite = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()
    np.testing.assert_allclose(
        lite(inputs=inputs)["outputs"], expected, rtol=1e-4, atol=1e-4
    )
