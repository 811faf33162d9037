"""The exported functions: encoded images to masks."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from apps.common import limits, runs
from apps.common.image_headers import MAX_PIXELS
from apps.common.images import check_pixels, decode_each, fit_image
from apps.common.predictors import Predictor, load_predictor
from apps.semantic_segmentation.config import Config, class_name, crf_settings
from apps.semantic_segmentation.model import build_crf, build_model

BATCH_SIZE = 8  # Images per call of a predictor.
MAX_INPUTS = 16  # Images in a request.
# Height and width of the squares whose mean scores are answered.
SCORE_PIXELS = 8
# What a request may contain, for the card.
LIMITS = {"max_inputs": MAX_INPUTS, "max_pixels": MAX_PIXELS}


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
            "tensors": tf.function(self.segment_tensors, input_signature=[pixels]),
        }
        if crf:
            self.signatures["with_crf"] = tf.function(
                self.segment_with_crf, input_signature=[encoded]
            )

    def segment_tensors(self, images):
        """Segments prepared images, `(n, height, width, 3)` from 0 to 255.

        Returns:
            What `segment` returns, without refinement; and `scores`,
            `(n, rows, columns, classes)`: the mean probability of each class in squares
            of `SCORE_PIXELS` pixels.
        """
        pixels, errors = check_pixels(images, self.image_size, MAX_INPUTS)
        sizes = tf.tile([self.image_size], [tf.shape(pixels)[0], 1])
        return limits.answer(self._masks(pixels, sizes, sizes, has_scores=True), errors)

    def segment(self, image_bytes):
        """Segments encoded images of any size, `(n,)`.

        Returns:
            `mask_bytes`, `(n,)`: masks as PNG files of class numbers, each of the size
            of its image. `classes` and `pixel_fractions`, both `(n, classes)`: the name
            of each class, empty if the mask does not contain it, and its fraction of
            the pixels. `errors`, strings `(n,)`.
        """
        return self._segment(image_bytes)

    def segment_with_crf(self, image_bytes):
        """Segments encoded images as `segment` does, and refines the masks."""
        return self._segment(
            image_bytes, refine=lambda logits, images: self.crf([logits, images])
        )

    def _segment(self, image_bytes, refine=None):
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
        answers = self._masks(fitted, inner_sizes, sizes, refine)
        return limits.answer(answers, errors)

    def _masks(self, fitted, inner_sizes, sizes, refine=None, has_scores=False):
        """Returns the masks of prepared images, and their mean scores if wanted."""
        num_classes = len(self.classes)
        rows, columns = (-(-side // SCORE_PIXELS) for side in self.image_size)
        signature = {
            "mask_bytes": tf.TensorSpec([], tf.string),
            "pixel_fractions": tf.TensorSpec([num_classes]),
        }
        if has_scores:
            signature["scores"] = tf.TensorSpec([rows, columns, num_classes])

        def segment(inputs):
            fitted, inner_size, size = inputs
            all_logits = self.network(fitted[None], training=False)
            rows, columns = inner_size[0], inner_size[1]
            logits = all_logits[:, :rows, :columns]
            if refine:
                logits = refine(logits, fitted[None, :rows, :columns])
            mask = best_class(logits[0], size)
            counts = tf.math.bincount(
                tf.reshape(mask, [-1]), minlength=num_classes, maxlength=num_classes
            )
            answers = {
                "mask_bytes": tf.io.encode_png(tf.cast(mask, tf.uint8)),
                "pixel_fractions": tf.cast(counts / tf.size(mask), tf.float32),
            }
            if has_scores:
                # Those of all pixels would be 100 MB of JSON.
                scores = tf.nn.softmax(all_logits)
                side = SCORE_PIXELS
                answers["scores"] = tf.nn.avg_pool2d(scores, side, side, "SAME")[0]
            return answers

        # One image after the other, since each takes much memory.
        answers = tf.map_fn(
            segment,
            (fitted, inner_sizes, sizes),
            fn_output_signature=signature,
            parallel_iterations=1,
        )
        is_present = answers["pixel_fractions"] > 0
        class_names = tf.constant(list(map(class_name, self.classes)))
        return {**answers, "classes": tf.where(is_present, class_names, "")}


def best_class(logits, size):
    """Resizes logits and returns the best class of every pixel.

    Args:
        logits: `(height, width, classes)`.
        size: Height and width of the result in pixels.

    Returns:
        int32 `(*size, 1)`.
    """
    # Antialiasing takes four times as long, and matters only where pixels are lost.
    is_enlarged = tf.reduce_all(size >= tf.shape(logits)[:2])
    return tf.cond(
        is_enlarged,
        lambda: _best_class(logits, size, antialias=False),
        lambda: _best_class(logits, size, antialias=True),
    )


def _best_class(logits, size, antialias):
    # One class after the other: for a large photograph, all of them take too much
    # memory.
    channels = tf.split(logits, logits.shape[-1], axis=-1)
    best = tf.image.resize(channels[0], size, antialias=antialias)
    mask = tf.zeros_like(best, tf.int32)
    for number, channel in enumerate(channels[1:], start=1):
        with tf.control_dependencies([best, mask]):
            channel = tf.image.resize(channel, size, antialias=antialias)
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
    return load_predictor(
        where, "semantic_segmentation", lambda run: load_run(run).signatures, signature
    )
