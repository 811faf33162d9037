"""Exports a trained segmenter for TensorFlow Serving and for devices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.colors import to_hex

from apps.common import pictures, runs, saved_models
from apps.semantic_segmentation import edge
from apps.semantic_segmentation.config import Config, class_color, class_name
from apps.semantic_segmentation.data import decode_mask, load_examples
from apps.semantic_segmentation.evaluate import score
from apps.semantic_segmentation.model import (
    Segmenter,
    load_model,
    load_segmenter,
    windowed,
)

VARIANTS = ("float32", "dynamic_range", "int8")
CALIBRATION_IMAGES = 100

# The promises: how many pixels may change their class, and how much mean IoU a
# quantized variant may lose.
CHANGED_PIXELS = 1e-3
QUANTIZED_IOU_LOSS = 0.01


def export(run: Path, to: Path, variants=VARIANTS, crf=True, image_size=None):
    """Publishes a run as the next version of a served model, with an edge bundle.

    Everything is scored on the test split first. A SavedModel or float32 model that
    does not answer as the trained model does stops the export; a quantized one that
    loses more than a point of mean IoU is left out. The leanest variant that remains
    becomes the bundle's `model.tflite`.

    Args:
        run: A run directory.
        to: The directory that TensorFlow Serving reads, such as
            `saved_models/semantic_segmentation`.
        variants: The TensorFlow Lite variants to put into the bundle.
        crf: Whether to add the CRF: as the signature `with_crf` for the server, and as
            `crf.tflite`, with the windowed method, for devices.
        image_size: Height and width of the model's input, as in `Config`. Defaults to
            those of the training.

    Returns:
        The directory of the version.

    Raises:
        BadInput: The run holds no trained model.
        ExportRefused: The exported model does not do what the trained one does.
    """
    runs.require_finished(run)
    variants = list(dict.fromkeys(variants))
    config = runs.load_config(Config, run)
    if image_size:
        config = replace(config, image_size=image_size)
    trained = load_segmenter(run, config.image_size)
    segmenter = Segmenter(
        saved_models.fold_batch_normalization(trained.network),
        trained.crf,
        trained.image_size,
        trained.classes,
    )
    splits, classes = load_examples(config)
    test = splits["test"]

    with saved_models.staging(to) as stage:
        version = saved_models.next_version(to)
        saved_model = stage / str(version)
        save(segmenter, saved_model, to.name, crf)
        bundle = stage / "edge"
        operations = make_bundle(segmenter, bundle, variants, splits["train"], crf)

        def measure_test(predictor, reference):
            return measure(predictor, test, classes, reference)

        engines = saved_models.measure_engines(
            saved_models.exported_engines(run, saved_model, bundle, variants),
            lambda where: load_model(where, image_size=image_size),
            measure_test,
            test.image_bytes(0),
        )
        bounds = dict.fromkeys(("SavedModel", "float32"), CHANGED_PIXELS)
        saved_models.check(engines, "changed_pixels", bounds)
        recommended = saved_models.recommend(
            bundle, engines, variants, "mean_iou", QUANTIZED_IOU_LOSS
        )
        if crf:
            engines += saved_models.measure_engines(
                {
                    "trained model with CRF": (run, run / "model.keras"),
                    "SavedModel with CRF": (saved_model, saved_model),
                    # Another method, hence no promise binds it.
                    "model.tflite with crf.tflite": (bundle, bundle / "crf.tflite"),
                },
                lambda where: load_model(where, "with_crf", image_size),
                measure_test,
                test.image_bytes(0),
            )
            saved_models.check(
                engines, "changed_pixels", {"SavedModel with CRF": CHANGED_PIXELS}
            )
        height, width = config.image_size
        names = ", ".join(map(class_name, classes))
        saved_models.write_card(
            stage,
            {
                "name": f"Semantic segmentation: {names}",
                "description": (
                    f"{config.model} on {config.backbone}, {width}×{height} pixels. "
                    f"Every row was scored on the same {len(test)} test images, which "
                    "took no part in training or in any choice but that of the variant "
                    "for devices, with `python -m apps.semantic_segmentation "
                    "evaluate`. The boundary score is the "
                    "mean IoU within 5 pixels of the boundaries between classes; "
                    "changed pixels are those that the trained model gives another "
                    "class, without or with CRF."
                ),
                "engines": engines,
                "recommended": (
                    f"Recommended on a device: {recommended}, as `edge/model.tflite`, "
                    "the leanest within "
                    f"{100 * QUANTIZED_IOU_LOSS:.0f} point of the SavedModel."
                ),
                "facts": {
                    "Signatures": signature_facts(config, crf),
                    "Training": training_facts(run, config, splits),
                    "CRF": crf_facts(trained.crf),
                    "Data and licence": f"`{config.data}`: {config.data_licence}.",
                },
                "operations": operations[recommended],
                "classes": classes,
                "config": saved_models.card_config(config, "weights"),
            },
        )
        saved_models.publish(stage, to, version)
    return to / str(version)


def save(segmenter, path: Path, model_name, crf):
    """Writes the SavedModel and its warm-up requests."""
    signatures = {
        "serving_default": segmenter.serving_default,
        "tensors": segmenter.tensors,
    }
    if crf:
        signatures["with_crf"] = segmenter.with_crf
    variables = segmenter.network.variables + segmenter.crf.variables
    saved_models.save(variables, signatures, path, half=True)
    grey = tf.fill([*segmenter.image_size, 3], tf.constant(128, tf.uint8))
    encoded = {"image_bytes": tf.make_tensor_proto([tf.io.encode_jpeg(grey).numpy()])}
    shape = (1, *segmenter.image_size, 3)
    requests = dict.fromkeys(signatures, encoded)
    requests["tensors"] = {"images": tf.make_tensor_proto(0.0, shape=shape)}
    saved_models.write_warm_up(path, model_name, requests)


def make_bundle(segmenter, folder: Path, variants, train_examples, crf):
    """Writes what a device needs: the model's variants, labels, program, requirements.

    Returns:
        The operations of each variant and their numbers.
    """
    folder.mkdir()
    height, width = segmenter.image_size
    # One image at a time, so that every shape is known.
    images = tf.TensorSpec([1, height, width, 3], name="images")
    logits = tf.TensorSpec([1, height, width, len(segmenter.classes)], name="logits")
    signature = tf.function(
        lambda images: {"logits": segmenter.network(images, training=False)},
        input_signature=[images],
    )
    chosen = np.random.default_rng(0).permutation(len(train_examples))
    examples = [
        {"images": edge.prepare(train_examples.image_bytes(i), height, width)[0]}
        for i in chosen[:CALIBRATION_IMAGES]
    ]
    if crf:
        light = windowed(segmenter.crf)
        refine = tf.function(
            lambda images, logits: {"refined": light([logits, images])},
            input_signature=[images, logits],
        )
        saved_models.convert(light.variables, refine, folder / "crf.tflite", "float32")
    colors = pictures.class_colors([class_color(line) for line in segmenter.classes])
    labels = [
        f"{class_name(line)} {to_hex(color / 255)}"
        for line, color in zip(segmenter.classes, colors, strict=True)
    ]
    return saved_models.write_bundle(
        folder,
        edge.__file__,
        "pillow>=11",
        labels,
        segmenter.network.variables,
        signature,
        variants,
        examples,
    )


def measure(predictor, examples, classes, reference):
    """Returns the measurements of one engine, and what the others are compared with.

    Args:
        predictor: The engine.
        examples: The test images.
        classes: The classes, as in `Config.classes`.
        reference: The `Scores` of the trained model, or None for that one itself.
    """
    result = score(predictor, examples, classes)
    reference = reference or result
    changed = [
        np.mean(decode_mask(answer) != decode_mask(other))
        for answer, other in zip(result.answers, reference.answers, strict=True)
    ]
    summary = result.agreement.summary()
    return {
        **{name: round(value, 4) for name, value in summary.items()},
        "changed_pixels": float(f"{np.mean(changed):.2g}"),
    }, reference


def signature_facts(config, crf):
    """Returns what the served model takes and answers, as sentences."""
    height, width = config.image_size
    return (
        "`serving_default`: `image_bytes` (JPEG, PNG, BMP or GIF, any size) → "
        "`mask_bytes` (PNG of class numbers, as large as the image), `classes` and "
        "`shares` (at the place of each number: the name if the mask contains it, and "
        "its share of the pixels). "
        + ("`with_crf`: the same, refined by the CRF. " if crf else "")
        + f"`tensors`: `images` (float32, {height}×{width} RGB from 0 to 255) → "
        "`scores` (the probability of each class at each pixel)."
    )


def training_facts(run, config, splits):
    """Returns how the model was trained, as sentences."""
    summary = runs.summary(run)
    chosen = (
        f"Best of {summary['epochs']} epochs on {len(splits['validation'])} held-out "
        f"images: epoch {summary['best_epoch']}, with validation mean IoU "
        f"{summary['val_mean_iou']:.4f}"
        if "val_mean_iou" in summary
        else f"The last of {summary['epochs']} epochs"
    )
    return (
        f"{len(splits['train'])} images to learn from, seed {config.seed}. {chosen}; "
        f"{summary['minutes']} minutes."
    )


def crf_facts(crf):
    """Returns the parameters of the CRF, as sentences."""
    return (
        f"{crf.iterations} iterations; appearance weight {float(crf.appearance):.3g}, "
        f"σα {crf.position_sigma:g} pixels, σβ {crf.color_sigma:g} grey levels; "
        f"smoothness weight {float(crf.smoothness):.3g}, σγ {crf.smoothness_sigma:g} "
        f"pixels; {crf.compatibility} compatibility. The bundle's windowed method "
        f"reaches {crf.window * crf.stride} pixels to each side."
    )
