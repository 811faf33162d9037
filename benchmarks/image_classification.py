"""Time of training steps and of served models, side by side in one run.

    python -m benchmarks.image_classification

Times are medians on this machine; compare the ratios.
"""

import os
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from apps.common import backbones, saved_models
from apps.image_classification.model import build_model
from apps.image_classification.signatures import Classifier
from benchmarks.measure import bundle_start, made_up_photograph, median_seconds

BATCH_SIZE = 16
EDGE = Path("saved_models/image_classification/edge")


def mobilenet(backbone_output="block_15_add"):
    """Returns an untrained classifier on MobileNetV2 at 224 pixels."""
    return build_model(
        num_classes=5,
        image_size=224,
        backbone="MobileNetV2",
        backbone_output=backbone_output,
        weights=None,
        dropout=0.2,
    )


def training_step(fraction, backbone_output="block_15_add", jit_compile=False):
    """Returns the seconds of one training step."""
    model = mobilenet(backbone_output)
    backbones.set_trainable(model.get_layer("backbone"), fraction)
    model.compile("adam", "categorical_crossentropy", jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (BATCH_SIZE, 224, 224, 3)).astype("float32")
    labels = np.eye(5, dtype="float32")[rng.integers(0, 5, BATCH_SIZE)]
    return median_seconds(lambda: model.train_on_batch(images, labels))


def served_seconds(fold):
    """Returns the seconds that a SavedModel takes for one prepared image."""
    model = mobilenet()
    if fold:
        model = saved_models.fold_batch_normalization(model)
    classifier = Classifier(model, list("abcde"), "squash")
    with tempfile.TemporaryDirectory() as folder:
        signatures = {"serving_default": classifier.signatures["tensors"]}
        served = saved_models.Served(signatures, model.variables)
        saved_models.save(served, Path(folder))
        signature = tf.saved_model.load(folder).signatures["serving_default"]
        images = tf.zeros((1, 224, 224, 3))
        return median_seconds(lambda: signature(images=images), 30)


def main():
    """Prints the tables."""
    keras.utils.set_random_seed(0)
    print(f"Training step, MobileNetV2 to block_15_add, 224 pixels, batch {BATCH_SIZE}")
    reference = training_step(fraction=1)
    for name, seconds in (
        ("all layers", reference),
        ("last 62 % of the layers (the default)", training_step(fraction=0.62)),
        ("the head only", training_step(fraction=0)),
        ("all layers, whole backbone", training_step(fraction=1, backbone_output=None)),
        ("all layers, with XLA", training_step(fraction=1, jit_compile=True)),
    ):
        print(f"  {name:40} {1000 * seconds:7.0f} ms  {seconds / reference:5.2f}")

    print("SavedModel, one prepared image")
    reference = served_seconds(fold=False)
    for name, seconds in (
        ("batch normalization as trained", reference),
        ("folded into the convolutions", served_seconds(fold=True)),
    ):
        print(f"  {name:40} {1000 * seconds:7.1f} ms  {seconds / reference:5.2f}")

    with made_up_photograph() as photo:
        seconds, megabytes = bundle_start(EDGE, photo)
    print("Edge bundle, from start to the answer for a 640×480 photograph")
    print(f"  {seconds:.2f} s, {megabytes:.0f} MB peak memory")


if __name__ == "__main__":
    main()
