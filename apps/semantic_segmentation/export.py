"""Exports a segmenter for TensorFlow Serving and for devices."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.colors import to_hex

from apps.common import datasets, figures, lite, runs
from apps.common.predictors import load_predictor
from apps.common.release import (
    Bundle,
    Card,
    Exam,
    Served,
    check_bounds,
    measure_engines,
    release,
)
from apps.common.saved_models import fold_batch_normalization
from apps.semantic_segmentation import edge
from apps.semantic_segmentation.config import Config, class_color, class_name
from apps.semantic_segmentation.data import decode_mask, load_examples
from apps.semantic_segmentation.evaluate import score
from apps.semantic_segmentation.model import to_windowed
from apps.semantic_segmentation.signatures import (
    LIMITS,
    SCORE_PIXELS,
    Segmenter,
    load_run,
)

NUM_CALIBRATION_IMAGES = 100

# Bounds: the largest fraction of pixels whose class may change, and the mean IoU that a
# quantized variant may lose.
MAX_CHANGED_PIXELS = 1e-3
MAX_IOU_LOSS = 0.01


def export(
    run: Path,
    to: Path,
    variants: Sequence[str],
    crf: bool = True,
    image_size: tuple[int, int] | None = None,
    replace: bool = False,
) -> Path:
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
    config = dataclasses.replace(config, image_size=image_size or config.image_size)
    trained = load_run(run, config.image_size)
    segmenter = Segmenter(
        fold_batch_normalization(trained.network),
        trained.crf if crf else None,
        trained.image_size,
        trained.classes,
    )
    splits = load_examples(config, runs.read_held_out(run))

    def measure_crf(saved_model, bundle):
        crf_exam = exam(splits["test"], config, "with_crf")
        rows = measure_engines(crf_engines(run, saved_model, bundle), crf_exam)
        check_bounds(rows, crf_exam)
        return rows

    return release(
        run,
        to,
        variants,
        served(segmenter),
        bundle(segmenter, splits["train"]),
        exam(splits["test"], config),
        card(config, segmenter, splits),
        replace,
        more=measure_crf if crf else None,
    )


def served(segmenter):
    """Returns what TensorFlow Serving gets."""
    grey = tf.fill([*segmenter.image_size, 3], tf.constant(128, tf.uint8))
    encoded = [tf.io.encode_jpeg(grey).numpy()]
    warm_up = dict.fromkeys(segmenter.signatures, encoded)
    warm_up["tensors"] = np.zeros((1, *segmenter.image_size, 3), "float32")
    return Served(segmenter.signatures, segmenter.variables, warm_up, half=True)


def bundle(segmenter, train_examples):
    """Returns what a device gets."""
    height, width = segmenter.image_size
    # One image at a time, so that every shape is known.
    images = tf.TensorSpec([1, height, width, 3], name="images")
    logits = tf.TensorSpec([1, height, width, len(segmenter.classes)], name="logits")
    label = tf.function(
        lambda images: {"logits": segmenter.network(images, training=False)},
        input_signature=[images],
    )

    def write_crf(folder):
        crf = to_windowed(segmenter.crf)
        refine = tf.function(
            lambda images, logits: {"refined": crf([logits, images])},
            input_signature=[images, logits],
        )
        signatures = {"serving_default": refine}
        lite.convert(crf.variables, signatures, folder / "crf.tflite", "float32")

    def calibration():
        chosen = np.random.default_rng(0).permutation(len(train_examples))
        for i in chosen[:NUM_CALIBRATION_IMAGES]:
            prepared = edge.prepare(train_examples.image_bytes(i), height, width)
            yield {"images": prepared[0]}

    colors = figures.class_colors([class_color(each) for each in segmenter.classes])
    return Bundle(
        edge.__file__,
        ["pillow>=11"],
        segmenter.network.variables,
        {"serving_default": label},
        labels=[
            f"{class_name(entry)} {to_hex(color / 255)}"
            for entry, color in zip(segmenter.classes, colors, strict=True)
        ],
        calibration=calibration,
        write_files=write_crf if segmenter.crf else None,
    )


def crf_engines(run, saved_model, bundle):
    """Returns the engines with the CRF, in the form of `release.engines`."""
    bundle_files = [bundle / "model.tflite", bundle / "crf.tflite"]
    return {
        "trained model with CRF": (run, [run / "model.keras"]),
        "SavedModel with CRF": (saved_model, [saved_model]),
        # Its windowed method gives other masks, so it has no bound.
        "model.tflite with crf.tflite": (bundle, bundle_files),
    }


def exam(test_examples, config, signature="serving_default"):
    """Returns how engines are measured, without or with the CRF."""

    def load_model(where):
        return load_predictor(
            where,
            "semantic_segmentation",
            lambda run: load_run(run, config.image_size).signatures,
            signature,
        )

    def measure(predictor, reference):
        scores = score(predictor, test_examples)
        masks = zip(scores.masks, (reference or scores).masks, strict=True)
        changed = [np.mean(decode_mask(a) != decode_mask(b)) for a, b in masks]
        summary = scores.agreement.summary()
        return {
            **{name: round(value, 4) for name, value in summary.items()},
            "changed_pixels": float(f"{np.mean(changed):.2g}"),
        }, scores

    exact_engines = ("SavedModel", "float32", "SavedModel with CRF")
    return Exam(
        load_model,
        measure,
        test_examples.image_bytes(0),
        difference="changed_pixels",
        bounds=dict.fromkeys(exact_engines, MAX_CHANGED_PIXELS),
        metric="mean_iou",
        max_loss=MAX_IOU_LOSS,
    )


def card(config, segmenter, splits):
    """Returns the texts of the model card."""
    height, width = config.image_size
    crf = segmenter.crf
    with_crf = "`with_crf`: the same, with masks refined by the CRF. " if crf else ""
    return Card(
        name=(
            f"Semantic segmentation: {', '.join(map(class_name, segmenter.classes))}"
        ),
        description=(
            f"{config.architecture} on {config.backbone}, {width}×{height} pixels. The "
            "boundary score is the mean IoU within 5 pixels of the boundaries between "
            "classes. Changed pixels are the fraction of pixels whose class differs "
            "from the trained model's, without or with the CRF."
        ),
        unit="images",
        recommendation=(
            f"within {100 * MAX_IOU_LOSS:.0f} point of the SavedModel's mean IoU"
        ),
        signatures=(
            "`serving_default`: `image_bytes` (JPEG, PNG, BMP or GIF) → `mask_bytes` "
            "(a PNG file of class numbers, of the size of the image), `classes` (the "
            "name of each class, empty if the mask does not contain it), "
            f"`pixel_fractions` (of each class). {with_crf}`tensors`: `images` "
            f"(float32, {height}×{width} RGB from 0 to 255) → the same without the "
            "CRF, and `scores`, the mean probability of each class in squares of "
            f"{SCORE_PIXELS} pixels. `errors` says what is wrong with each image, and "
            "is empty if nothing is."
        ),
        limits=LIMITS,
        config=config,
        files_setting="weights",
        num_examples=datasets.sizes(splits),
        classes=segmenter.classes,
        facts={"CRF": crf_facts(crf)} if crf else {},
    )


def crf_facts(crf):
    """Returns the parameters of a CRF, in a sentence."""
    return (
        f"{crf.iterations} iterations; appearance weight {float(crf.appearance):.3g}, "
        f"σα {crf.position_sigma:g} pixels, σβ {crf.color_sigma:g} grey levels; "
        f"smoothness weight {float(crf.smoothness):.3g}, σγ {crf.smoothness_sigma:g} "
        f"pixels; {crf.compatibility} compatibility. The windowed method in the bundle "
        f"reaches {crf.window * crf.stride} pixels in each direction."
    )
