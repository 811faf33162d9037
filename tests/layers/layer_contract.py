"""Checks that every layer must pass. The test of each layer calls `check_layer`."""

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from apps.common import lite, saved_models


def check_layer(
    layer_class,
    arguments,
    input_shape,
    output_shape,
    tmp_path,
    trainable_weights=0,
    *,
    num_learning_inputs=None,
    max_integer=None,
    runs_in_lite=True,
):
    """Checks shapes, gradients, configuration, saving, precision and exports.

    Args:
        layer_class: The layer class.
        arguments: Its constructor arguments.
        input_shape: Shape of the input, without unknown sizes, batch first. A list of
            shapes if the layer has several inputs.
        output_shape: Expected shape of the output. A list of shapes if the layer has
            several outputs.
        tmp_path: A temporary directory.
        trainable_weights: Expected number of trainable weights.
        num_learning_inputs: Number of inputs, counted from the first, that gradients
            must reach. Defaults to all inputs.
        max_integer: If given, the inputs are int32, from 0 to below this. Gradients
            reach none of them.
        runs_in_lite: If True, TensorFlow Lite must be able to run the layer.
    """
    has_several_inputs = isinstance(input_shape, list)
    has_several_outputs = isinstance(output_shape, list)
    shapes = input_shape if has_several_inputs else [input_shape]

    def pack(values):
        return list(values) if has_several_inputs else next(iter(values))

    def unpack(outputs):
        return outputs if has_several_outputs else [outputs]

    def join(outputs):
        """Returns several outputs as one vector, to compare them at once."""
        if not has_several_outputs:
            return outputs
        return keras.ops.concatenate([keras.ops.ravel(each) for each in outputs])

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    if max_integer:
        num_learning_inputs = 0
        arrays = [rng.integers(max_integer, size=s, dtype="int32") for s in shapes]
    dtype = arrays[0].dtype.name
    inputs = pack(arrays)
    layer = layer_class(**arguments)
    outputs = join(layer(inputs)).numpy()

    # Eager, inferred, compiled and symbolic shapes agree, also for unknown sizes.
    output_shapes = unpack(output_shape)
    assert [tuple(each.shape) for each in unpack(layer(inputs))] == output_shapes
    inferred = unpack(layer.compute_output_shape(input_shape))
    assert list(map(tuple, inferred)) == output_shapes
    compiled = join(tf.function(layer)(pack(map(tf.constant, arrays))))
    np.testing.assert_allclose(compiled, outputs, rtol=1e-5, atol=1e-5)
    unknown = [(*(None for _ in shape[:-1]), shape[-1]) for shape in shapes]
    symbolic = layer_class(**arguments)(
        pack(keras.KerasTensor(shape, dtype) for shape in unknown)
    )
    symbolic_shapes = [tuple(each.shape) for each in unpack(symbolic)]
    for symbolic_shape, shape in zip(symbolic_shapes, output_shapes, strict=True):
        assert len(symbolic_shape) == len(shape)
        assert symbolic_shape[-1] == shape[-1]
    inferred = unpack(layer.compute_output_shape(pack(unknown)))
    assert list(map(tuple, inferred)) == symbolic_shapes
    assert len(layer.trainable_weights) == trainable_weights

    # Gradients are finite and reach the inputs and all weights.
    variables = [tf.Variable(array) for array in arrays]
    with tf.GradientTape() as tape:
        # Random factors, because the outputs of some layers have a constant sum.
        factors = rng.normal(size=outputs.shape)
        answers = join(layer(pack(variables), training=True))
        loss = tf.reduce_sum(answers**2 * factors)
    learning = variables[:num_learning_inputs]
    learning += [weight.value for weight in layer.trainable_weights]
    for gradient in tape.gradient(loss, learning):
        assert gradient is not None
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0

    # The configuration of a built layer holds every argument unchanged.
    config = layer.get_config()
    assert layer_class.from_config(config).get_config() == config
    assert config == {**config, **arguments}

    # A saved model reloads without `custom_objects` and gives the same outputs.
    named = [
        keras.Input(batch_shape=shape, dtype=dtype, name=f"inputs_{i}")
        for i, shape in enumerate(shapes)
    ]
    model = keras.Model(named, layer(pack(named)))
    expected = join(model(arrays)).numpy()
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(join(reloaded(arrays)), expected, rtol=1e-6, atol=1e-6)

    # Mixed precision computes in float16 and keeps the weights as they are.
    half = layer_class(**arguments, dtype="mixed_float16")
    assert join(half(inputs)).dtype == "float16"
    assert [w.dtype for w in half.weights] == [w.dtype for w in layer.weights]
    assert all(weight.dtype in ("float32", "int32") for weight in half.weights)

    # The layer exports to TensorFlow Serving and to TensorFlow Lite.
    signature = tf.function(
        lambda *inputs: {"outputs": join(model(inputs))},
        input_signature=[
            tf.TensorSpec(shape, dtype, name=f"inputs_{i}")
            for i, shape in enumerate(shapes)
        ],
    )
    feed = {f"inputs_{i}": array for i, array in enumerate(arrays)}
    served = export(signature, model.variables, tmp_path / "1")
    answers = served(**{name: tf.constant(array) for name, array in feed.items()})
    np.testing.assert_allclose(answers["outputs"], expected, rtol=1e-5, atol=1e-5)
    if runs_in_lite:
        runner = convert(signature, model.variables, tmp_path / "model.tflite")
        np.testing.assert_allclose(
            runner(**feed)["outputs"], expected, rtol=1e-4, atol=1e-4
        )


def export(signature, variables, folder):
    """Writes a SavedModel with one signature, and returns that signature, loaded."""
    served = saved_models.Served({"serving_default": signature}, variables)
    saved_models.save(served, folder)
    return tf.saved_model.load(folder).signatures["serving_default"]


def convert(signature, variables, file, variant="float32", examples=()):
    """Writes a `.tflite` file with one signature, and returns that signature, loaded.

    `examples` are the calibration data of the variant `int8`.
    """
    signatures = {"serving_default": signature}
    lite.convert(variables, signatures, file, variant, lambda: examples)
    return Interpreter(str(file)).get_signature_runner()
