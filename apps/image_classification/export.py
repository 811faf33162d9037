"""Exports a classifier for TensorFlow Serving and for devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.common.saved_models import fold_batch_normalization
from apps.image_classification import edge
from apps.image_classification.config import Config
from apps.image_classification.data import load_examples
from apps.image_classification.evaluate import score
from apps.image_classification.signatures import (
    LIMITS,
    Classifier,
    load_model,
    load_run,
)

NUM_CALIBRATION_IMAGES = 200

# Bounds: the largest difference of any score, and the accuracy that a quantized variant
# may lose.
MAX_SAVED_MODEL_DIFFERENCE = 5e-2  # Its weights have half precision.
MAX_FLOAT32_DIFFERENCE = 1e-3
MAX_ACCURACY_LOSS = 0.01


def export(run: Path, to: Path, variants: Sequence[str], replace: bool = False) -> Path:
    """Publishes a run, as `release` describes it.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The directory of the version.

    Raises:
        BadInput: The run has no finished training, or another model is served there.
        ExportRefused: The exported model does not answer as the trained one does.
    """
    runs.require_finished(run)
    config = runs.load_config(Config, run)
    trained = load_run(run)
    classifier = Classifier(
        fold_batch_normalization(trained.model), trained.class_names, config.resize
    )
    splits = load_examples(config, runs.read_held_out(run))
    return release(
        run,
        to,
        variants,
        served(classifier),
        bundle(classifier, splits["train"]),
        exam(splits["test"]),
        card(config, classifier, splits),
        replace,
    )


def served(classifier):
    """Returns what TensorFlow Serving gets."""
    size = classifier.image_size
    grey = tf.fill([size, size, 3], tf.constant(128, tf.uint8))
    return Served(
        classifier.signatures,
        classifier.model.variables,
        warm_up={
            "serving_default": [tf.io.encode_jpeg(grey).numpy()],
            "tensors": np.zeros((1, size, size, 3), "float32"),
        },
        half=True,
    )


def bundle(classifier, train_examples):
    """Returns what a device gets."""
    size = classifier.image_size
    # One image at a time, so that every shape is known.
    one_image = tf.TensorSpec([1, size, size, 3], name="images")
    score_images = tf.function(
        lambda images: {"scores": classifier.model(images, training=False)},
        input_signature=[one_image],
    )

    def calibration():
        chosen = np.random.default_rng(0).permutation(len(train_examples))
        for i in chosen[:NUM_CALIBRATION_IMAGES]:
            yield {
                "images": edge.prepare(
                    train_examples.image_bytes(i), size, classifier.resize
                )
            }

    def write_settings(folder):
        runs.write_json(folder / "settings.json", {"resize": classifier.resize})

    return Bundle(
        edge.__file__,
        ["pillow>=11"],
        classifier.model.variables,
        {"serving_default": score_images},
        labels=classifier.class_names,
        calibration=calibration,
        write_files=write_settings,
    )


def exam(test_examples):
    """Returns how engines are measured."""

    def measure(predictor, reference):
        result = score(predictor, test_examples)
        difference = 0.0
        if reference is not None:
            difference = np.abs(result.scores - reference.scores).max()
        return {
            "accuracy": round(result.accuracy, 4),
            "max_score_difference": float(f"{difference:.2g}"),
        }, result

    return Exam(
        load_model,
        measure,
        test_examples.image_bytes(0),
        difference="max_score_difference",
        bounds={
            "SavedModel": MAX_SAVED_MODEL_DIFFERENCE,
            "float32": MAX_FLOAT32_DIFFERENCE,
        },
        metric="accuracy",
        max_loss=MAX_ACCURACY_LOSS,
    )


def card(config, classifier, splits):
    """Returns the texts of the model card."""
    size = config.image_size
    return Card(
        name=f"Image classification: {', '.join(classifier.class_names)}",
        description=(
            f"{config.backbone} on {size}×{size} pixels; images are resized by "
            f"`{config.resize}`."
        ),
        unit="images",
        recommendation=(
            f"within {100 * MAX_ACCURACY_LOSS:.0f} point of the SavedModel's accuracy"
        ),
        signatures=(
            "`serving_default`: `image_bytes` (JPEG, PNG, BMP or GIF) → `classes`, "
            f"`scores`, best first. `tensors`: `images` (float32, {size}×{size} RGB "
            "from 0 to 255) → `scores`, in the order of `edge/labels.txt`. `errors` "
            "says what is wrong with each image, and is empty if nothing is."
        ),
        limits=LIMITS,
        config=config,
        files_setting="weights",
        num_examples=datasets.sizes(splits),
        classes=classifier.class_names,
    )
