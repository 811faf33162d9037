"""The exported functions: encoded images to class names."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from apps.common import limits, runs
from apps.common.image_headers import MAX_PIXELS
from apps.common.images import check_pixels, decode_each, resize_image
from apps.common.predictors import Predictor, load_predictor
from apps.image_classification.config import Config
from apps.image_classification.model import build_model

# What a request may contain, for the card.
LIMITS = {"max_inputs": limits.MAX_INPUTS, "max_pixels": MAX_PIXELS}


class Classifier:
    """A trained model with its exported functions.

    Args:
        model: A trained model from `build_model`.
        class_names: The names of its classes, in order.
        resize: How images become square, as for `images.resize_image`.

    Attributes:
        signatures: The exported functions by name, `serving_default` and `tensors`.
    """

    def __init__(self, model, class_names, resize):
        self.model = model
        self.class_names = tuple(class_names)
        self.resize = resize
        self.image_size = model.input_shape[1]
        pixels = tf.TensorSpec([None, *model.input_shape[1:]], name="images")
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        self.signatures = {
            "serving_default": tf.function(self.classify, input_signature=[encoded]),
            "tensors": tf.function(self.score, input_signature=[pixels]),
        }

    def score(self, images):
        """Scores prepared images, `(n, size, size, 3)` from 0 to 255.

        Returns:
            `scores`, `(n, classes)`, in the order of the class names; and `errors`,
            strings `(n,)`.
        """
        pixels, errors = check_pixels(images, [self.image_size, self.image_size])
        return limits.answer({"scores": self._network(pixels)}, errors)

    def classify(self, image_bytes):
        """Classifies encoded images of any size, `(n,)`.

        Returns:
            `classes` and `scores`, both `(n, classes)`, the best class first; and
            `errors`, strings `(n,)`.
        """
        size = self.image_size
        (pixels,), errors = decode_each(
            limits.check_shape(image_bytes, "image_bytes", [None], [limits.MAX_INPUTS]),
            lambda image: [resize_image(image, size, self.resize)],
            [tf.TensorSpec([size, size, 3])],
        )
        scores, order = tf.math.top_k(self._network(pixels), k=len(self.class_names))
        classes = tf.gather(tf.constant(self.class_names), order)
        return limits.answer({"classes": classes, "scores": scores}, errors)

    def _network(self, pixels):
        return limits.call_network(
            lambda pixels: self.model(pixels, training=False), pixels
        )


def load_run(run: Path) -> Classifier:
    """Returns the best model of a run as a `Classifier` that computes in float32."""
    config = runs.load_config(Config, run)
    class_names = json.loads((run / "classes.json").read_text())
    model = keras.saving.load_model(run / "model.keras", compile=False)
    if config.precision != "float32":
        trained = model
        with runs.dtype_policy("float32"):
            model = build_model(
                num_classes=len(class_names),
                image_size=config.image_size,
                backbone=config.backbone,
                backbone_output=config.backbone_output,
                weights=None,
                dropout=config.dropout,
            )
        model.set_weights(trained.get_weights())
    return Classifier(model, class_names, config.resize)


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(
        where, "image_classification", lambda run: load_run(run).signatures, signature
    )
