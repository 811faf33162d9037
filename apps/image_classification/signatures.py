"""The exported functions: encoded images to class names."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from apps.common import images, runs
from apps.common.predictors import Predictor, load_predictor
from apps.image_classification.config import Config
from apps.image_classification.model import build_model


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
        """Scores prepared images, `(batch, size, size, 3)` from 0 to 255.

        Returns:
            `scores`, `(batch, classes)`, in the order of the class names.
        """
        return {"scores": self.model(images, training=False)}

    def classify(self, image_bytes):
        """Classifies encoded images of any size, `(batch,)`.

        Returns:
            `classes` and `scores`, both `(batch, classes)`, the best class first.
        """
        size = self.image_size

        def prepare(encoded):
            image = images.decode_image(encoded)
            return images.resize_image(image, size, self.resize)

        pixels = tf.map_fn(
            prepare,
            image_bytes,
            fn_output_signature=tf.TensorSpec([size, size, 3]),
        )
        # A call of the exported function, so that the network is saved once.
        answers = self.signatures["tensors"](pixels)
        scores, order = tf.math.top_k(answers["scores"], k=len(self.class_names))
        return {
            "classes": tf.gather(tf.constant(self.class_names), order),
            "scores": scores,
        }


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
    return load_predictor(where, lambda run: load_run(run).signatures, signature)
