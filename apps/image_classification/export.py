"""Exports a trained classifier for TensorFlow Serving and for devices."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import runs, saved_models
from apps.common.predictors import load_predictor
from apps.image_classification import edge
from apps.image_classification.config import Config
from apps.image_classification.data import load_examples
from apps.image_classification.evaluate import score
from apps.image_classification.model import Classifier, load_classifier

VARIANTS = ("float32", "dynamic_range", "int8")
CALIBRATION_IMAGES = 200

# The promises. Score differences are the largest of any class and image.
SAVED_MODEL_DIFFERENCE = 1e-4
FLOAT32_DIFFERENCE = 1e-3
QUANTIZED_ACCURACY_LOSS = 0.01


def export(run: Path, to: Path, variants=VARIANTS):
    """Publishes a run as the next version of a served model, with an edge bundle.

    Everything is scored on the test split first. A SavedModel or float32 model that
    does not answer as the trained model does stops the export; a quantized one that
    loses more than a point of accuracy is left out. The leanest variant that remains
    becomes the bundle's `model.tflite`.

    Args:
        run: A run directory.
        to: The directory that TensorFlow Serving reads, such as
            `saved_models/image_classification`.
        variants: The TensorFlow Lite variants to put into the bundle.

    Returns:
        The directory of the version.

    Raises:
        BadInput: The run holds no trained model.
        ExportRefused: The exported model does not do what the trained one does.
    """
    runs.require_finished(run)
    variants = list(dict.fromkeys(variants))
    config = runs.load_config(Config, run)
    trained = load_classifier(run)
    classifier = Classifier(
        saved_models.fold_batch_normalization(trained.model), trained.class_names
    )
    splits, class_names = load_examples(
        config.data, config.validation_fraction, config.seed
    )

    with saved_models.staging(to) as stage:
        version = saved_models.next_version(to)
        saved_model = stage / str(version)
        size = classifier.model.input_shape[1]
        grey = tf.fill([size, size, 3], tf.constant(128, tf.uint8))
        saved_models.save(
            classifier.model.variables,
            {
                "serving_default": classifier.serving_default,
                "tensors": classifier.tensors,
            },
            saved_model,
        )
        saved_models.write_warm_up(
            saved_model,
            to.name,
            {
                "serving_default": {
                    "image_bytes": tf.make_tensor_proto(
                        [tf.io.encode_jpeg(grey).numpy()]
                    )
                },
                "tensors": {
                    "images": tf.make_tensor_proto(0.0, shape=(1, size, size, 3))
                },
            },
        )
        operations = make_bundle(classifier, stage / "edge", variants, splits["train"])

        engines = saved_models.measure_engines(
            saved_models.exported_engines(run, saved_model, stage / "edge", variants),
            lambda where: load_predictor(where, load_classifier),
            lambda predictor, reference: measure(
                predictor, splits["test"], class_names, reference
            ),
            splits["test"].image_bytes(0),
        )
        saved_models.check(
            engines,
            "largest_score_difference",
            {"SavedModel": SAVED_MODEL_DIFFERENCE, "float32": FLOAT32_DIFFERENCE},
        )
        recommended = saved_models.recommend(
            stage / "edge", engines, variants, "accuracy", QUANTIZED_ACCURACY_LOSS
        )
        saved_models.write_card(
            stage,
            {
                "name": f"Image classification: {', '.join(class_names)}",
                "description": (
                    f"{config.backbone} on {size}×{size} pixels. Every row was scored "
                    f"on the same {len(splits['test'])} test images, which took no "
                    "part in training or in the choice of the epoch, with `python -m "
                    "apps.image_classification evaluate`."
                ),
                "engines": engines,
                "recommended": (
                    f"Recommended on a device: {recommended}, as `edge/model.tflite`, "
                    "the leanest within "
                    f"{100 * QUANTIZED_ACCURACY_LOSS:.0f} point of the SavedModel."
                ),
                "facts": {
                    "Signatures": (
                        "`serving_default`: `image_bytes` (JPEG, PNG, BMP or GIF, any "
                        "size) → `classes`, `scores`, best first. `tensors`: `images` "
                        f"(float32, {size}×{size} RGB from 0 to 255) → `scores`, in "
                        "the order of `edge/labels.txt`."
                    ),
                    "Training": training_facts(run, config, splits),
                    "Data and licence": f"`{config.data}`: {config.data_licence}.",
                },
                "operations": operations[recommended],
                "classes": class_names,
                "config": saved_models.card_config(config, "weights"),
            },
        )
        saved_models.publish(stage, to, version)
    return to / str(version)


def make_bundle(classifier, folder: Path, variants, train_examples):
    """Writes what a device needs: the model's variants, labels, program, requirements.

    Returns:
        The operations of each variant and their numbers.
    """
    folder.mkdir()
    size = classifier.model.input_shape[1]
    # One image at a time, so that every shape is known.
    signature = tf.function(
        lambda images: {"scores": classifier.model(images, training=False)},
        input_signature=[tf.TensorSpec([1, size, size, 3], name="images")],
    )
    chosen = np.random.default_rng(0).permutation(len(train_examples))
    examples = [
        {"images": edge.prepare(train_examples.image_bytes(i), size)}
        for i in chosen[:CALIBRATION_IMAGES]
    ]
    names = [name.decode() for name in classifier.class_names.numpy()]
    return saved_models.write_bundle(
        folder,
        edge.__file__,
        "pillow>=11",
        names,
        classifier.model.variables,
        signature,
        variants,
        examples,
    )


def measure(predictor, examples, class_names, reference):
    """Returns the measurements of one engine, and what the others are compared with.

    Args:
        predictor: The engine.
        examples: The test images.
        class_names: What their labels stand for.
        reference: The `Scores` of the trained model, or None for that one itself.
    """
    result = score(predictor, examples, class_names)
    reference = reference or result
    difference = np.abs(result.scores - reference.scores).max()
    return {
        "accuracy": round(result.accuracy, 4),
        "largest_score_difference": float(f"{difference:.2g}"),
    }, reference


def training_facts(run, config, splits):
    """Returns how the model was trained, as sentences."""
    summary = runs.summary(run)
    return (
        f"{len(splits['train'])} images to learn from, {len(splits['validation'])} to "
        f"choose the epoch, seed {config.seed}. Best epoch "
        f"{summary['best_epoch']} of {summary['epochs']}, with "
        f"validation accuracy {summary['val_accuracy']:.4f}; "
        f"{summary['minutes']} minutes."
    )
