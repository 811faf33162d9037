"""Exports a detector for TensorFlow Serving and for devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.errors import BadInput
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.common.saved_models import fold_batch_normalization
from apps.object_detection import edge
from apps.object_detection.config import MAX_BOXES, Config
from apps.object_detection.data import load_examples
from apps.object_detection.evaluate import score
from apps.object_detection.metrics import changed_boxes, summarize
from apps.object_detection.signatures import (
    LIMITS,
    Detector,
    load_model,
    load_run,
    read_confidence,
)

VARIANTS = {
    "one_stage": ("float32", "dynamic_range", "int8"),
    "faster_rcnn": ("float32", "dynamic_range"),
}
KINDS = {"one_stage": "One-stage detector", "faster_rcnn": "Faster R-CNN"}
NUM_CALIBRATION_IMAGES = 100

# Bounds: the largest fraction of boxes that may change, and the AP50 that a quantized
# variant may lose.
MAX_CHANGED_BOXES = 0.01
MAX_AP50_LOSS = 0.02


def export(
    run: Path, to: Path, variants: Sequence[str] = (), replace: bool = False
) -> Path:
    """Publishes a run, as `release` describes it.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The directory of the version.

    Raises:
        BadInput: The run has no finished training, its model has no such variant, or
            another model is served there.
        ExportRefused: The exported model does not answer as the trained one does.
    """
    runs.require_finished(run)
    config = runs.load_config(Config, run)
    variants = choose_variants(config.model, variants)
    trained = load_run(run)
    detector = Detector(
        fold_batch_normalization(trained.network),
        trained.image_size,
        trained.classes,
        config,
    )
    splits = load_examples(config, runs.read_held_out(run))
    confidence = read_confidence(str(run))
    return release(
        run,
        to,
        variants,
        served(detector),
        bundle(detector, confidence, splits["train"]),
        exam(splits["test"], config),
        card(config, detector, confidence, splits),
        replace,
    )


def choose_variants(model, variants):
    """Returns the variants for the bundle of a kind of model: all, or those given.

    Raises:
        BadInput: The model has no such variant.
    """
    known = VARIANTS[model]
    unknown = [variant for variant in variants if variant not in known]
    if unknown:
        raise BadInput(
            f"--variants {unknown[0]}: a {model} model has no such variant; choose "
            f"from {', '.join(known)}"
        )
    return variants or known


def served(detector):
    """Returns what TensorFlow Serving gets."""
    grey = tf.fill([*detector.image_size, 3], tf.constant(128, tf.uint8))
    warm_up = {
        "serving_default": [tf.io.encode_jpeg(grey).numpy()],
        "tensors": np.zeros((1, *detector.image_size, 3), "float32"),
    }
    return Served(detector.signatures, detector.variables, warm_up, half=True)


def bundle(detector, confidence, train_examples):
    """Returns what a device gets.

    Args:
        detector: A `Detector`.
        confidence: The score from which on boxes are drawn.
        train_examples: The `Examples` that calibrate `int8`.
    """
    height, width = detector.image_size

    def calibration():
        chosen = np.random.default_rng(0).permutation(len(train_examples))
        for i in chosen[:NUM_CALIBRATION_IMAGES]:
            prepared = edge.prepare(train_examples.image_bytes(i), height, width)
            yield {"images": prepared[0]}

    def write_settings(folder):
        settings = {
            "iou": detector.iou,
            "min_score": detector.min_score,
            "confidence": confidence,
        }
        runs.write_json(folder / "settings.json", settings)

    return Bundle(
        edge.__file__,
        ["pillow>=11"],
        detector.variables,
        device_signatures(detector),
        labels=detector.classes,
        calibration=calibration,
        write_files=write_settings,
    )


def device_signatures(detector):
    """Returns the functions of a device, for one image at a time, by name.

    `serving_default` takes `images` and returns the maps of every stride. Each map is
    an output of its own, so that quantization gives it a scale of its own. `box_head`,
    of Faster R-CNN, takes feature maps and boxes.
    """
    network = detector.network
    strides = network.get_layer("boxes").strides
    kinds = [kind for kind in ("features", "logits", "bins") if kind in network.output]

    def predict(images):
        outputs = network(images, training=False)
        return {
            f"{kind}_{stride}": feature_map
            for kind in kinds
            for stride, feature_map in zip(strides, outputs[kind], strict=True)
        }

    # Every shape is known.
    images = tf.TensorSpec([1, *detector.image_size, 3], name="images")
    signatures = {"serving_default": tf.function(predict, input_signature=[images])}
    if "features" in kinds:
        signatures["box_head"] = box_head_signature(detector, strides)
    return signatures


def box_head_signature(detector, strides):
    """Returns the function from feature maps and boxes to class logits and deltas.

    Args:
        detector: A `Detector` of a Faster R-CNN.
        strides: The strides of its feature maps.
    """
    box_head = detector.network.get_layer("box_head")
    height, width = detector.image_size
    specs = [
        tf.TensorSpec(
            [1, height // stride, width // stride, features.shape[-1]],
            name=f"features_{stride}",
        )
        for stride, features in zip(strides, box_head.inputs, strict=False)
    ]
    specs.append(tf.TensorSpec([1, edge.NUM_PROPOSALS, 4], name="boxes"))

    def look_again(*inputs):
        class_logits, deltas = box_head(list(inputs), training=False)
        return {"class_logits": class_logits, "deltas": deltas}

    return tf.function(look_again, input_signature=specs)


def exam(test_examples, config):
    """Returns how engines are measured."""

    def measure(predictor, reference):
        scores = score(predictor, test_examples)
        summary = summarize(scores.evaluation)
        changed = changed_boxes(
            scores.answers, (reference or scores).answers, test_examples.classes
        )
        return {
            **{name: round(summary[name], 4) for name in ("map", "ap50", "ap75")},
            "changed_boxes": float(f"{changed:.2g}"),
        }, scores

    return Exam(
        load_model,
        measure,
        test_examples.image_bytes(0),
        difference="changed_boxes",
        bounds=dict.fromkeys(("SavedModel", "float32"), MAX_CHANGED_BOXES),
        metric="ap50",
        max_loss=MAX_AP50_LOSS,
    )


def card(config, detector, confidence, splits):
    """Returns the texts of the model card."""
    height, width = config.image_size
    return Card(
        name=f"Object detection: {', '.join(detector.classes)}",
        description=(
            f"{KINDS[config.model]} on {config.backbone}, {width}×{height} pixels. map "
            "is COCO's average precision, the mean over IoUs from 0.5 to 0.95; ap50 "
            "and ap75 are those at one IoU. Changed boxes are the fraction of boxes "
            "that the trained model does not have, or that only it has."
        ),
        unit="images",
        recommendation=(
            f"within {100 * MAX_AP50_LOSS:.0f} points of the SavedModel's AP50"
        ),
        signatures=(
            "`serving_default`: `image_bytes` (JPEG, PNG, BMP or GIF) → `boxes` (x1, "
            "y1, x2, y2 in pixels of the upright image, best first), `classes` (their "
            "names), `scores` (from 0 to 1), `num_detections` (the number of boxes, at "
            f"most {MAX_BOXES}; beyond it boxes and scores are zero and classes "
            f"empty). `tensors`: `images` (float32, {height}×{width} RGB from 0 to "
            "255) → the same, in pixels of these images. `errors` says what is wrong "
            "with each image, and is empty if nothing is."
        ),
        limits=LIMITS,
        confidence=confidence,
        config=config,
        files_setting="weights",
        num_examples=datasets.sizes(splits),
        classes=detector.classes,
        facts={"Thresholds": threshold_facts(detector, confidence)},
    )


def threshold_facts(detector, confidence):
    """Returns the thresholds of a detector, as a list."""
    return (
        f"- Boxes with scores above {detector.min_score:g} are answered (`min_score`). "
        "Low ones are needed to measure precision and recall.\n"
        f"- Show boxes with scores from {confidence:g} on (`confidence`): it has the "
        "best F1 on validation.\n"
        f"- Of boxes of a class that overlap by an IoU above {detector.iou:g} (`iou`), "
        "the best one is answered."
    )
