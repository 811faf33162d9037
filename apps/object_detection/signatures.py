"""The exported functions: encoded images to boxes."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from apps.common import limits, runs
from apps.common.image_headers import MAX_PIXELS
from apps.common.images import check_pixels, decode_each, fit_image
from apps.common.predictors import Predictor, about, load_predictor, training_record
from apps.object_detection.config import MAX_BOXES, Config
from apps.object_detection.model import build_model
from apps.object_detection.suppression import suppress

BATCH_SIZE = 8  # Images per call of a predictor.
MAX_INPUTS = 32  # Images in a request.
# What a request may contain, for the card.
LIMITS = {"max_inputs": MAX_INPUTS, "max_pixels": MAX_PIXELS}


class Detector:
    """A trained network with its exported functions.

    Args:
        network: A trained model from `build_model`.
        image_size: Height and width of the network's input, in pixels.
        classes: The names of the classes.
        config: Gives the thresholds `iou` and `min_score`.

    Attributes:
        signatures: The exported functions by name: `serving_default` and `tensors`.
        variables: The variables that they use.
    """

    def __init__(self, network, image_size, classes, config):
        self.network = network
        self.image_size = tuple(image_size)
        self.classes = tuple(classes)
        self.iou = config.iou
        self.min_score = config.min_score
        self.variables = network.variables
        pixels = tf.TensorSpec([None, *self.image_size, 3], name="images")
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        self.signatures = {
            "serving_default": tf.function(self.detect, input_signature=[encoded]),
            "tensors": tf.function(self.detect_tensors, input_signature=[pixels]),
        }

    def detect_tensors(self, images):
        """Detects boxes in prepared images, `(n, height, width, 3)` from 0 to 255.

        Returns:
            What `detect` returns; the boxes are in pixels of the prepared images.
        """
        pixels, errors = check_pixels(images, self.image_size, MAX_INPUTS)
        sizes = tf.tile([self.image_size], [tf.shape(pixels)[0], 1])
        return limits.answer(self._boxes(pixels, sizes, sizes), errors)

    def detect(self, image_bytes):
        """Detects boxes in encoded images of any size, `(n,)`.

        Returns:
            `boxes`, `(n, MAX_BOXES, 4)`: x1, y1, x2, y2 in pixels of the upright image,
            best first. `classes`, strings `(n, MAX_BOXES)`, and `scores`, from 0 to 1,
            `(n, MAX_BOXES)`. `num_detections`, `(n,)`: the number of boxes; beyond it
            boxes and scores are zero and classes empty. `errors`, strings `(n,)`.
        """

        def prepare(image):
            fitted, inner_size = fit_image(image, *self.image_size)
            return fitted, tf.stack(inner_size), tf.shape(image)[:2]

        (fitted, inner_sizes, sizes), errors = decode_each(
            limits.check_shape(image_bytes, "image_bytes", [None], [MAX_INPUTS]),
            prepare,
            [
                tf.TensorSpec([*self.image_size, 3]),
                tf.TensorSpec([2], tf.int32),
                tf.TensorSpec([2], tf.int32),
            ],
        )
        return limits.answer(self._boxes(fitted, inner_sizes, sizes), errors)

    def _boxes(self, fitted, inner_sizes, sizes):
        """Returns the boxes of prepared images, in pixels of their originals.

        Args:
            fitted: The images with their padding, `(n, height, width, 3)`.
            inner_sizes: Height and width without the padding, `(n, 2)`.
            sizes: Height and width of the originals, `(n, 2)`.
        """

        def detect(inputs):
            image, inner_size, size = inputs
            boxes, scores = self.network.candidates(image[None])
            boxes, scores = clip(boxes, scores, inner_size)
            boxes, scores, classes, num_detections = suppress(
                boxes,
                scores,
                iou=self.iou,
                confidence=self.min_score,
                max_boxes=MAX_BOXES,
            )
            boxes = boxes[0] / _corners(inner_size) * _corners(size)
            return boxes, scores[0], classes[0], num_detections[0]

        # One image after the other, since large ones take much memory.
        boxes, scores, classes, num_detections = tf.map_fn(
            detect,
            (fitted, inner_sizes, sizes),
            fn_output_signature=(
                tf.TensorSpec([MAX_BOXES, 4]),
                tf.TensorSpec([MAX_BOXES]),
                tf.TensorSpec([MAX_BOXES], tf.int32),
                tf.TensorSpec([], tf.int32),
            ),
            parallel_iterations=1,
        )
        is_box = tf.range(MAX_BOXES) < num_detections[:, None]
        return {
            "boxes": boxes,
            "classes": tf.where(
                is_box, tf.gather(tf.constant(self.classes), classes), ""
            ),
            "scores": scores,
            "num_detections": num_detections,
        }


def clip(boxes, scores, size):
    """Clips boxes to their image; boxes outside it get the score 0.

    Args:
        boxes: `(batch, points, 4)`: x1, y1, x2, y2 in pixels.
        scores: `(batch, points, classes)`.
        size: Height and width of the image, int `(2,)`.

    Returns:
        The boxes and the scores.
    """
    boxes = tf.clip_by_value(boxes, 0, _corners(size))
    has_area = tf.reduce_all(boxes[..., 2:] > boxes[..., :2], axis=-1, keepdims=True)
    return boxes, tf.where(has_area, scores, 0)


def _corners(size):
    """Returns a height and a width as width, height, width, height, float32 `(4,)`."""
    return tf.tile(tf.cast(size[::-1], tf.float32), [2])


def load_run(run: Path) -> Detector:
    """Returns the best model of a run as a `Detector` that computes in float32.

    Args:
        run: The run directory.
    """
    config = runs.load_config(Config, run)
    classes = json.loads((run / "classes.json").read_text())
    network = keras.saving.load_model(run / "model.keras", compile=False)
    if config.precision != "float32":
        trained = network
        with runs.dtype_policy("float32"):
            network = build_model(
                num_classes=len(classes),
                model=config.model,
                backbone=config.backbone,
                weights=None,
                filters=config.filters,
                num_bins=config.num_bins,
            )
        network.set_weights(trained.get_weights())
    return Detector(network, config.image_size, classes, config)


def read_confidence(model: str) -> float:
    """Returns the score with the best F1 on validation, which a model records.

    Args:
        model: As `load_predictor` takes it.

    Returns:
        A number from 0 to 1; 0.5 if the model records none.
    """
    record = training_record(model)
    if record and (record / "confidence.json").exists():
        return json.loads((record / "confidence.json").read_text())["confidence"]
    return (about(model) or {}).get("confidence", 0.5)


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(
        where, "object_detection", lambda run: load_run(run).signatures, signature
    )
