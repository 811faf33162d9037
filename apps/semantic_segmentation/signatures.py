"""The exported functions: encoded images to masks."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from apps.common import images, runs
from apps.common.predictors import Predictor, load_predictor
from apps.semantic_segmentation.config import Config, class_name, crf_settings
from apps.semantic_segmentation.model import build_crf, build_model

BATCH_SIZE = 8  # Images per call of a predictor.


class Segmenter:
    """A trained network with its CRF and its exported functions.

    Args:
        network: A trained model from `build_model`.
        crf: The CRF that refines its logits, or None.
        image_size: Height and width of the network's input, in pixels.
        classes: As in `Config.classes`.
        is_crf_trained: Whether the CRF was trained together with the network.

    Attributes:
        signatures: The exported functions by name: `serving_default`, `tensors` and, if
            there is a CRF, `with_crf`.
        variables: The variables that they use.
    """

    def __init__(self, network, crf, image_size, classes, is_crf_trained=False):
        self.network = network
        self.crf = crf
        self.image_size = tuple(image_size)
        self.classes = tuple(classes)
        self.is_crf_trained = is_crf_trained
        self.variables = network.variables + (crf.variables if crf else [])
        pixels = tf.TensorSpec([None, *self.image_size, 3], name="images")
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        self.signatures = {
            "serving_default": tf.function(self.segment, input_signature=[encoded]),
            "tensors": tf.function(self.score, input_signature=[pixels]),
        }
        if crf:
            self.signatures["with_crf"] = tf.function(
                self.segment_with_crf, input_signature=[encoded]
            )

    def score(self, images):
        """Scores prepared images, `(batch, height, width, 3)` from 0 to 255.

        Returns:
            `scores`, `(batch, height, width, classes)`: the probability of each class
            at each pixel.
        """
        return {"scores": tf.nn.softmax(self.network(images, training=False))}

    def segment(self, image_bytes):
        """Segments encoded images of any size, `(batch,)`.

        Returns:
            `mask_bytes`, `(batch,)`: masks as PNG files of class numbers, each of the
            size of its image. `classes` and `pixel_fractions`, both `(batch, classes)`:
            the name of each class, empty if the mask does not contain it, and its
            fraction of the pixels.
        """
        return self._segment(image_bytes, refine=lambda logits, images: logits)

    def segment_with_crf(self, image_bytes):
        """Segments encoded images as `segment` does, and refines the masks."""
        return self._segment(
            image_bytes, refine=lambda logits, images: self.crf([logits, images])
        )

    def _segment(self, image_bytes, refine):
        num_classes = len(self.classes)

        def prepare(encoded):
            image = images.decode_image(encoded)
            fitted, inner_size = images.fit_image(image, *self.image_size)
            return fitted, tf.stack(inner_size), tf.shape(image)[:2]

        def finish(inputs):
            fitted, logits, inner_size, size = inputs
            rows, columns = inner_size[0], inner_size[1]
            logits = refine(
                logits[None, :rows, :columns], fitted[None, :rows, :columns]
            )
            mask = best_class(logits[0], size)
            counts = tf.math.bincount(
                tf.reshape(mask, [-1]), minlength=num_classes, maxlength=num_classes
            )
            mask_bytes = tf.io.encode_png(tf.cast(mask, tf.uint8))
            return mask_bytes, tf.cast(counts / tf.size(mask), tf.float32)

        fitted, inner_sizes, sizes = tf.map_fn(
            prepare,
            image_bytes,
            fn_output_signature=(
                tf.TensorSpec([*self.image_size, 3]),
                tf.TensorSpec([2], tf.int32),
                tf.TensorSpec([2], tf.int32),
            ),
        )
        logits = self.network(fitted, training=False)
        mask_bytes, pixel_fractions = tf.map_fn(
            finish,
            (fitted, logits, inner_sizes, sizes),
            fn_output_signature=(
                tf.TensorSpec([], tf.string),
                tf.TensorSpec([num_classes]),
            ),
            parallel_iterations=1,  # A large photograph takes much memory.
        )
        class_names = tf.constant(list(map(class_name, self.classes)))
        return {
            "mask_bytes": mask_bytes,
            "classes": tf.where(pixel_fractions > 0, class_names, ""),
            "pixel_fractions": pixel_fractions,
        }


def best_class(logits, size):
    """Resizes logits and returns the best class of every pixel.

    Args:
        logits: `(height, width, classes)`.
        size: Height and width of the result in pixels.

    Returns:
        int32 `(*size, 1)`.
    """
    # One class at a time: for a large photograph, all of them take too much memory.
    channels = tf.split(logits, logits.shape[-1], axis=-1)
    best = tf.image.resize(channels[0], size, antialias=True)
    mask = tf.zeros_like(best, tf.int32)
    for number, channel in enumerate(channels[1:], start=1):
        channel = tf.image.resize(channel, size, antialias=True)
        mask = tf.where(channel > best, number, mask)
        best = tf.maximum(best, channel)
    return mask


def load_run(run: Path, image_size: tuple[int, int] | None = None) -> Segmenter:
    """Returns the best model of a run as a `Segmenter` that computes in float32.

    A trained CRF keeps its weights. Any other CRF has the parameters in `crf.json`, the
    result of a search, or else those of the configuration.

    Args:
        run: The run directory.
        image_size: Height and width of the input. Defaults to those of the training.
    """
    config = runs.load_config(Config, run)
    classes = json.loads((run / "classes.json").read_text())
    network = keras.saving.load_model(run / "model.keras", compile=False)
    is_crf_trained = "crf" in [layer.name for layer in network.layers]
    if is_crf_trained:
        crf = network.get_layer("crf")
        network = keras.Model(network.input, network.get_layer("logits").output)
    else:
        settings = crf_settings(config)
        if (run / "crf.json").exists():
            settings |= json.loads((run / "crf.json").read_text())
        crf = build_crf(num_classes=len(classes), **settings)
    if config.precision != "float32":
        trained = network
        with runs.dtype_policy("float32"):
            network = build_model(
                num_classes=len(classes),
                architecture=config.architecture,
                backbone=config.backbone,
                weights=None,
                dropout=config.dropout,
            )
        network.set_weights(trained.get_weights())
    image_size = image_size or config.image_size
    return Segmenter(network, crf, image_size, classes, is_crf_trained)


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(where, lambda run: load_run(run).signatures, signature)
