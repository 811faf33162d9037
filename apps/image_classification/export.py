"""Exports a trained classifier for TensorFlow Serving and for devices."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import runs, saved_models
from apps.common.errors import BadInput, ExportRefused
from apps.common.predictors import load_predictor
from apps.image_classification import edge
from apps.image_classification.config import Config
from apps.image_classification.data import load_examples
from apps.image_classification.evaluate import score
from apps.image_classification.model import Classifier, load_classifier

VARIANTS = ("float32", "dynamic_range", "int8")
REQUIREMENTS = ("ai-edge-litert>=2.3,<3", "numpy>=2", "pillow>=11")
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
    if not (run / "model.keras").exists():
        raise BadInput(f"--run {run} holds no trained model; run train first")
    if not runs.summary(run):
        raise BadInput(
            f"--run {run} is not finished; give its train command again first"
        )
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
            classifier.model,
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

        engines = score_engines(
            {
                "trained model": (run, run / "model.keras"),
                "SavedModel": (saved_model, saved_model),
                **{
                    variant: (stage / "edge" / f"{variant}.tflite",) * 2
                    for variant in variants
                },
            },
            splits["test"],
            class_names,
        )
        check(engines)
        recommended = choose(engines, variants)
        keep(stage / "edge", engines, variants, recommended)
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
                    "Operations of the recommended model": ", ".join(
                        f"{name} {count}"
                        for name, count in sorted(operations[recommended].items())
                    ),
                },
                "classes": class_names,
                "config": {**asdict(config), "weights": weights_name(config)},
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
    (folder / "labels.txt").write_text("\n".join(names) + "\n", "utf-8")
    (folder / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n")
    shutil.copyfile(edge.__file__, folder / "run.py")
    return {
        variant: saved_models.convert(
            classifier.model,
            signature,
            folder / f"{variant}.tflite",
            variant,
            examples,
        )
        for variant in variants
    }


def score_engines(engines, examples, class_names):
    """Scores every engine on the same examples.

    Args:
        engines: By name: where the model is, and the file or directory it consists of.
            The first one is what the others are compared with.
        examples: The test images.
        class_names: What their labels stand for.

    Returns:
        One row of measurements per engine.
    """
    rows, reference = [], None
    for name, (where, files) in engines.items():
        predictor = load_predictor(str(where), load_classifier)
        result = score(predictor, examples, class_names)
        reference = result if reference is None else reference
        rows.append(
            {
                "engine": name,
                "accuracy": round(result.accuracy, 4),
                "largest_score_difference": float(
                    f"{np.abs(result.scores - reference.scores).max():.2g}"
                ),
                "size_MB": saved_models.size_mb(files),
                "latency_ms": saved_models.latency_ms(
                    predictor, examples.image_bytes(0)
                ),
            }
        )
        print(f"{name}: accuracy {rows[-1]['accuracy']}")
    return rows


def check(engines):
    """Holds the exact engines to their promises.

    Raises:
        ExportRefused: One of them answers differently from the trained model.
    """
    bounds = {"SavedModel": SAVED_MODEL_DIFFERENCE, "float32": FLOAT32_DIFFERENCE}
    for row in engines:
        bound = bounds.get(row["engine"])
        # Written so that NaN fails too.
        if bound and not row["largest_score_difference"] <= bound:
            raise ExportRefused(
                f"the {row['engine']} model's scores differ from the trained model's "
                f"by {row['largest_score_difference']}, more than {bound}; nothing was "
                "published"
            )


def choose(engines, variants):
    """Returns the leanest variant that is as accurate as the SavedModel.

    `int8` needs whole numbers only and runs on every accelerator; `dynamic_range` is as
    small but computes in floats.

    Raises:
        ExportRefused: No variant is.
    """
    good = accurate(engines, variants)
    if not good:
        raise ExportRefused(
            f"none of {', '.join(variants)} comes within a point of the SavedModel's "
            "accuracy; add --variants float32"
        )
    return max(good, key=VARIANTS.index)


def accurate(engines, variants):
    """Returns the variants that lose at most a point against the SavedModel."""
    accuracy = {row["engine"]: row["accuracy"] for row in engines}
    least = accuracy["SavedModel"] - QUANTIZED_ACCURACY_LOSS
    return [variant for variant in variants if accuracy[variant] >= least]


def keep(folder: Path, engines, variants, recommended):
    """Names the recommended variant `model.tflite` and drops those that fell short."""
    good = accurate(engines, variants)
    for variant in variants:
        file = folder / f"{variant}.tflite"
        if variant == recommended:
            file.rename(folder / "model.tflite")
        elif variant not in good:
            file.unlink()


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


def weights_name(config):
    """Returns what the training started from, without the folders of this machine."""
    return config.weights and Path(config.weights).name
