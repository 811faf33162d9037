"""Time of detectors, beside keras_cv's YOLOV8Detector in the same run.

    python -m benchmarks.object_detection

The networks are untrained, so all their scores are alike, and suppression looks at as
many boxes as it may. Each network of a table has its turn in every round, so that noise
of the machine affects all. Times are medians on this machine; compare the ratios.
"""

import functools
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_cv
import numpy as np
import tensorflow as tf

from apps.common.saved_models import fold_batch_normalization
from apps.object_detection.config import MAX_BOXES, Config
from apps.object_detection.model import build_model
from apps.object_detection.signatures import load_model
from apps.object_detection.suppression import suppress
from apps.object_detection.train import compile_model
from benchmarks.measure import (
    bundle_start,
    made_up_photograph,
    median_seconds,
    median_seconds_in_turns,
)

CONFIG = Config(data="")  # The settings for your own photographs.
HEIGHT, WIDTH = CONFIG.image_size
CLASSES = 3
BATCH_SIZE = 8
BOXES = 12  # In each image of the training.
RELEASED = Path("saved_models/object_detection")


def our_network(model):
    """Returns an untrained network with the default settings."""
    return build_model(
        num_classes=CLASSES,
        model=model,
        backbone=CONFIG.backbone,
        weights=None,
        filters=CONFIG.filters,
        num_bins=CONFIG.num_bins,
    )


def yolo():
    """Returns keras_cv's detector on its smallest backbone, and our thresholds."""
    backbone = keras_cv.models.YOLOV8Backbone(
        stackwise_channels=[32, 64, 128, 256],
        stackwise_depth=[1, 2, 2, 1],
        include_rescaling=True,
        input_shape=(HEIGHT, WIDTH, 3),
    )
    return keras_cv.models.YOLOV8Detector(
        num_classes=CLASSES,
        bounding_box_format="xyxy",
        backbone=backbone,
        fpn_depth=1,
        prediction_decoder=keras_cv.layers.NonMaxSuppression(
            bounding_box_format="xyxy",
            from_logits=False,
            iou_threshold=CONFIG.iou,
            confidence_threshold=0.0,
            max_detections=MAX_BOXES,
        ),
    )


def training_examples():
    """Returns a data set that repeats one batch of random images and boxes."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (BATCH_SIZE, HEIGHT, WIDTH, 3)).astype("float32")
    corners = random.uniform(0, HEIGHT / 2, (BATCH_SIZE, BOXES, 2))
    sides = random.uniform(20, HEIGHT / 2, (BATCH_SIZE, BOXES, 2))
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype("float32")
    classes = random.integers(0, CLASSES, (BATCH_SIZE, BOXES)).astype("int32")
    batch = images, {"boxes": boxes, "classes": classes}
    return tf.data.Dataset.from_tensors(batch).repeat()


def training_step(model):
    """Returns a function that trains a compiled model on one batch."""
    batches = iter(training_examples())
    model.make_train_function()
    return lambda: model.train_function(batches)


def training_steps():
    """Returns functions that train each detector on one batch, by name."""
    steps = {}
    for name in ("one_stage", "faster_rcnn"):
        network = our_network(name)
        compile_model(network, CONFIG.learning_rate, CONFIG.weight_decay)
        steps[name] = training_step(network)
    detector = yolo()
    detector.compile(
        optimizer=keras.optimizers.AdamW(CONFIG.learning_rate),
        classification_loss="binary_crossentropy",
        box_loss="ciou",
        jit_compile=False,
    )
    steps["YOLOV8Detector"] = training_step(detector)
    return steps


def our_inference(name):
    """Returns functions: from images to candidates, and from these to boxes."""
    network = fold_batch_normalization(our_network(name))

    def choose(candidates):
        return suppress(
            *candidates, iou=CONFIG.iou, confidence=0.0, max_boxes=MAX_BOXES
        )

    return network.candidates, choose


def yolo_inference():
    """Returns functions: from images to raw outputs, and from these to boxes."""
    detector = yolo()
    # The decoder needs no more of the images than their size.
    images = tf.zeros((1, HEIGHT, WIDTH, 3))
    return (
        lambda images: detector(images, training=False),
        lambda outputs: detector.decode_predictions(outputs, images),
    )


def inference():
    """Returns functions without arguments, by detector and step."""
    image = np.random.default_rng(0).uniform(0, 255, (1, HEIGHT, WIDTH, 3))
    image = tf.constant(image, tf.float32)
    detectors = {
        "one_stage": our_inference("one_stage"),
        "faster_rcnn": our_inference("faster_rcnn"),
        "YOLOV8Detector": yolo_inference(),
    }
    calls = {}
    for name, steps in detectors.items():
        predict, choose = (tf.function(each, jit_compile=False) for each in steps)
        calls[name, "network"] = functools.partial(predict, image)
        calls[name, "suppression"] = functools.partial(choose, predict(image))
    return calls


def print_training():
    """Prints the time of a training step of each detector."""
    steps = training_steps()
    seconds = median_seconds_in_turns(steps.values(), 5)
    print(f"Training step, {WIDTH}×{HEIGHT} pixels, batch {BATCH_SIZE}")
    for name, each in zip(steps, seconds, strict=True):
        print(f"  {name:15} {1000 * each:7.0f} ms  {each / seconds[-1]:5.2f}")


def print_inference():
    """Prints the time of an image and the share of suppression."""
    calls = inference()
    medians = median_seconds_in_turns(calls.values(), 20)
    seconds = dict(zip(calls, medians, strict=True))
    names = dict.fromkeys(name for name, _ in calls)
    totals = {
        name: seconds[name, "network"] + seconds[name, "suppression"] for name in names
    }
    print(f"Inference, one image of {WIDTH}×{HEIGHT} pixels")
    print("  detector          network   suppression  share  ratio")
    for name, total in totals.items():
        suppression = seconds[name, "suppression"]
        print(
            f"  {name:15} {1000 * seconds[name, 'network']:6.1f} ms"
            f" {1000 * suppression:9.1f} ms {100 * suppression / total:4.0f} %"
            f"  {total / totals['YOLOV8Detector']:5.2f}"
        )


def print_released():
    """Prints the time of the released model, from a photograph to its boxes."""
    print("Released model, a photograph of 640×480 pixels")
    with made_up_photograph() as photo:
        encoded = photo.read_bytes()
        for name, where in (
            ("SavedModel", RELEASED / "1"),
            ("Edge", RELEASED / "edge"),
        ):
            detect = functools.partial(load_model(str(where)), [encoded])
            milliseconds = 1000 * median_seconds(detect, 10)
            print(f"  {name:15} {milliseconds:5.1f} ms")
        seconds, megabytes = bundle_start(RELEASED / "edge", photo)
    print(
        f"  Edge bundle, from start to answer: {seconds:.2f} s, peak memory "
        f"{megabytes:.0f} MB"
    )


def main():
    """Prints the tables."""
    keras.utils.set_random_seed(0)
    print_training()
    print_inference()
    print_released()


if __name__ == "__main__":
    main()
