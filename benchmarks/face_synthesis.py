"""Speed of face synthesis: a training step beside PyTorch, the input, and the device.

    python -m benchmarks.face_synthesis

The step is that of a GAN of the default settings. PyTorch, if it is installed, trains
the same networks, of random weights, with the same augmentation and optimizer, in
turns. The edge bundle is the released one, if there is one.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf

from apps.common.images import encode_png
from apps.face_synthesis.config import Config
from apps.face_synthesis.data import Examples, make_batches
from apps.face_synthesis.model import build_model
from apps.face_synthesis.train import compile_model
from benchmarks.measure import bundle_start, median_seconds, median_seconds_in_turns

RELEASED = Path("saved_models/face_synthesis")
CONFIG = Config("random")
NUM_IMAGES = 512
BATCHES = 50


def main():
    """Prints the tables."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 64, 64, 3), "uint8")
    model = build_model(config=CONFIG, value_counts=[])
    compile_model(model, CONFIG, 1)
    data = tf.constant(images[: CONFIG.batch_size]), tf.zeros((CONFIG.batch_size, 0))
    step = tf.function(lambda: model.train_step(data)["loss"])
    ways = {"this application": lambda: step().numpy()}
    process = None
    if importlib.util.find_spec("torch"):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.face_synthesis_torch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ways["PyTorch"] = torch_step(process)
    seconds = median_seconds_in_turns(list(ways.values()), repetitions=10)
    if process:
        process.communicate()
    print(f"  {'a GAN step':20} {'ms':>8} {'images/s':>10} {'time ratio':>11}")
    for name, each in zip(ways, seconds, strict=True):
        speed, ratio = CONFIG.batch_size / each, each / seconds[-1]
        print(f"  {name:20} {1000 * each:8.0f} {speed:10.1f} {ratio:11.2f}")

    input_seconds = seconds_of_input(images)
    print(f"  {'input of a step':20} {1000 * input_seconds:8.1f}")
    print(f"  its part of a step: {input_seconds / seconds[0]:.1%}")
    if (RELEASED / "edge/run.py").exists():
        measure_device()


def seconds_of_input(images):
    """Returns the time of one batch of cached, shuffled images."""
    names = [f"{i}.png" for i in range(len(images))]
    examples = Examples(names, list(map(encode_png, images)), [()] * len(images), ())
    nothing = np.zeros((len(images), 0), "float32")
    batches = make_batches(examples, nothing, CONFIG, training=True)
    list(batches)  # Decodes the images.
    iterator = iter(batches.repeat())
    return (
        median_seconds(lambda: [next(iterator) for _ in range(BATCHES)], repetitions=5)
        / BATCHES
    )


def measure_device():
    """Prints the time of a face on one core, and of the first one from the start."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(RELEASED / "edge/model.tflite"), num_threads=1)
    draw = interpreter.get_signature_runner("draw")
    inputs = {
        name: np.zeros(detail["shape"], "float32")
        for name, detail in draw.get_input_details().items()
    }
    milliseconds = 1000 * median_seconds(lambda: draw(**inputs), repetitions=20)
    print(f"Edge bundle, a face on one core: {milliseconds:.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        start, megabytes = bundle_start(RELEASED / "edge", 7, "--folder", folder)
    print(f"  from start to face {start:.2f} s, {megabytes:.0f} MB resident")


def torch_step(process):
    """Returns a function that trains a step in the process of PyTorch."""

    def step():
        print(file=process.stdin, flush=True)
        assert process.stdout.readline()  # It ended otherwise.

    return step


if __name__ == "__main__":
    main()
