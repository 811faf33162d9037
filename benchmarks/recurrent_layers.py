"""Time of `LSTM` and `GRU` and of Keras' own, side by side in one run.

    python -m benchmarks.recurrent_layers

Times are medians on this machine, measured in turns; compare the ratios.
"""

import functools
import os
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import layers
from apps.common import lite
from benchmarks.measure import median_seconds_in_turns

BATCH, STEPS, FEATURES, UNITS = 64, 50, 128, 256
EDGE_STEPS, EDGE_FEATURES, EDGE_UNITS = 100, 40, 128
# Names of the layer classes, and their arguments.
PAIRS = {
    "LSTM": ("LSTM", {}),
    "LSTM, recurrent dropout": ("LSTM", {"recurrent_dropout": 0.2}),
    "GRU": ("GRU", {}),
    "GRU, reset before": ("GRU", {"reset_after": False}),
}


def training_step(layer):
    """Returns a function that takes one step of gradient descent."""
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layer])
    model.compile("sgd", "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(BATCH, STEPS, FEATURES)).astype("float32")
    targets = rng.normal(size=(BATCH, UNITS)).astype("float32")
    return lambda: model.train_on_batch(inputs, targets)


def inference(layer):
    """Returns a function that computes the outputs of a batch."""
    compiled = tf.function(layer, jit_compile=False)
    inputs = tf.random.normal((BATCH, STEPS, FEATURES))
    return lambda: compiled(inputs)


def device_model(layer, variant, path):
    """Writes a TensorFlow Lite model of a layer.

    Returns:
        A function that runs the model on one thread, and the counts of its operations.
    """
    layer.build((1, EDGE_STEPS, EDGE_FEATURES))
    signature = tf.function(
        lambda inputs: {"outputs": layer(inputs)},
        input_signature=[tf.TensorSpec((1, EDGE_STEPS, EDGE_FEATURES), name="inputs")],
    )
    inputs = np.random.default_rng(0).normal(size=(1, EDGE_STEPS, EDGE_FEATURES))
    inputs = inputs.astype("float32")
    counts = lite.convert(
        layer.variables,
        {"serving_default": signature},
        path,
        variant,
        lambda: [{"inputs": inputs}],
    )
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    return interpreter.invoke, counts


def main():
    """Prints the tables."""
    keras.utils.set_random_seed(0)
    print(f"Batch {BATCH}, {STEPS} steps, {FEATURES} features, {UNITS} units")
    origins = {"keras.layers": keras.layers, "layers": layers}
    for pair, (class_name, arguments) in PAIRS.items():
        for what, function in (("training", training_step), ("inference", inference)):
            functions = [
                function(getattr(origin, class_name)(UNITS, **arguments))
                for origin in origins.values()
            ]
            seconds = median_seconds_in_turns(functions, 60)
            for origin, value in zip(origins, seconds, strict=True):
                name = f"{origin}.{pair}, {what}"
                print(f"  {name:49} {1000 * value:6.1f} ms  {value / seconds[0]:5.2f}")

    print(
        f"TensorFlow Lite, LSTM of {EDGE_UNITS} units, {EDGE_STEPS} steps, "
        f"{EDGE_FEATURES} features, one thread"
    )
    for return_sequences in (True, False):
        print("  all outputs" if return_sequences else "  the last output")
        print_device_models(return_sequences)


def print_device_models(return_sequences):
    """Prints size and latency of LSTMs in TensorFlow Lite."""
    models = {
        "keras.layers.LSTM, float32": (keras.layers.LSTM, "float32"),
        "keras.layers.LSTM, dynamic range": (keras.layers.LSTM, "dynamic_range"),
        "layers.LSTM, float32": (layers.LSTM, "float32"),
        "layers.LSTM, dynamic range": (layers.LSTM, "dynamic_range"),
        "layers.LSTM, 8-bit activations": (
            functools.partial(layers.LSTM, lite_reset=False),
            "int8",
        ),
    }
    functions, loops, sizes = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for i, (layer_class, variant) in enumerate(models.values()):
            layer = layer_class(EDGE_UNITS, return_sequences=return_sequences)
            file = Path(folder, f"{i}.tflite")
            function, counts = device_model(layer, variant, file)
            functions.append(function)
            loops.append("fused" if counts["UNIDIRECTIONAL_SEQUENCE_LSTM"] else "loop ")
            sizes.append(file.stat().st_size)
        seconds = median_seconds_in_turns(functions, 300)
    for name, loop, size, value in zip(models, loops, sizes, seconds, strict=True):
        print(
            f"    {name:33} {loop} {size / 1000:5.0f} KB  {size / sizes[0]:5.2f} "
            f"{1000 * value:7.2f} ms  {value / seconds[0]:5.2f}"
        )


if __name__ == "__main__":
    main()
