"""The exported functions: seeds, attributes and latent vectors to faces."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common import limits, runs
from apps.common.backbones import scale_pixels
from apps.common.images import decode_each, resize_image
from apps.common.predictors import Predictor, load_predictor
from apps.face_synthesis import attributes as attributes_module
from apps.face_synthesis.attributes import Attribute
from apps.face_synthesis.config import Config
from apps.face_synthesis.model import VariationalAutoencoder

MAX_SEED = 2**31 - 1
MAX_LATENT = 100.0
# What a request may contain, for the card.
LIMITS = {
    "max_inputs": limits.MAX_INPUTS,
    "max_seed": MAX_SEED,
    "max_latent": int(MAX_LATENT),
}


class Synthesizer:
    """A model with its exported functions.

    Every face is drawn by itself, so it is the same whatever else a request has.

    Args:
        model: A `VariationalAutoencoder` or a `GenerativeAdversarialNetwork`.
        attributes: The attributes, a tuple of `Attribute`.
        combinations: Combinations of their values, int `(combinations, attributes)`.
        probabilities: How often they occur, float `(combinations,)`.
        config: Gives the size of images, and how they are resized.

    Attributes:
        weights: The variables that the functions use.
        signatures: The exported functions by name: `serving_default`, `latent` and
            `tensors`; `with_attributes` of a conditional GAN; `reconstruct` of an
            autoencoder.
    """

    def __init__(
        self,
        model: Any,
        attributes: tuple[Attribute, ...],
        combinations: np.ndarray,
        probabilities: np.ndarray,
        config: Config,
    ):
        self.model = model
        self.attributes = attributes
        self.combinations = combinations
        self.probabilities = probabilities
        self.config = config
        self.size = config.image_size
        self.latent_size = config.latent_size
        seeds = tf.TensorSpec([None], tf.int64, name="seed")
        latents = tf.TensorSpec([None, self.latent_size], name="latents")
        self.signatures = {
            "serving_default": tf.function(self.draw, input_signature=[seeds]),
            "latent": tf.function(self.draw_latents, input_signature=[latents]),
            "tensors": tf.function(self.draw_pixels, input_signature=[latents]),
        }
        if self.attributes:
            texts = tf.TensorSpec(
                [None, 1 + len(self.attributes)], tf.string, name="seed_and_attributes"
            )
            self.signatures["with_attributes"] = tf.function(
                self.draw_attributes, input_signature=[texts]
            )
        if isinstance(model, VariationalAutoencoder):
            self.weights = [
                *(*model.encoder.weights, *model.decoder.weights),
                model.log_variance,
            ]
            encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
            self.signatures["reconstruct"] = tf.function(
                self.reconstruct, input_signature=[encoded]
            )
        else:
            self.weights = (
                model.average_mapping.weights + model.average_generator.weights
            )

    def draw(self, seed):
        """Draws a face from each seed, int64 `(n,)`.

        Returns:
            `image_bytes`, PNG files `(n,)`; `latents`, `(n, latent_size)`; for a
            conditional GAN `attributes`, which are drawn too, strings `(n,
            attributes)`; and `errors`, strings `(n,)`.
        """
        seeds = limits.check_shape(seed, "seed", [None], [limits.MAX_INPUTS])
        errors = limits.first_error(_check_seeds(seeds))
        seeds = tf.where(errors == "", seeds, 0)
        return self._answer(seeds, self._draw_codes(seeds), errors)

    def draw_attributes(self, seed_and_attributes):
        """Draws a face of wanted attributes from each seed.

        Args:
            seed_and_attributes: Strings `(n, 1 + attributes)`: the seed, and the value
                of each attribute; an empty value is drawn.

        Returns:
            The same as `draw`.
        """
        width = 1 + len(self.attributes)
        texts = limits.check_shape(
            *(seed_and_attributes, "seed_and_attributes"),
            *([None, width], [limits.MAX_INPUTS, width]),
        )
        is_number = tf.strings.regex_full_match(texts[:, 0], "[0-9]{1,10}")
        seeds = tf.where(is_number, texts[:, 0], str(MAX_SEED + 1))
        seeds = tf.strings.to_number(seeds, tf.int64)
        checks = [_check_seeds(seeds)]
        drawn = self._draw_codes(tf.clip_by_value(seeds, 0, MAX_SEED))
        codes = []
        for j, attribute in enumerate(self.attributes):
            text = texts[:, 1 + j]
            is_value = text[:, None] == tf.constant(attribute.values)
            is_known = tf.reduce_any(is_value, axis=1)
            known = ", ".join(attribute.values)
            message = f"{attribute.name} must be one of {known}, or empty"
            checks.append((~is_known & (text != ""), message))
            index = tf.argmax(tf.cast(is_value, tf.int32), axis=1)
            codes.append(tf.where(is_known, index, drawn[:, j]))
        errors = limits.first_error(*checks)
        seeds = tf.where(errors == "", seeds, 0)
        return self._answer(seeds, tf.stack(codes, axis=1), errors)

    def draw_latents(self, latents):
        """Draws a face from each latent vector, `(n, latent_size)`.

        Returns:
            `image_bytes`, PNG files `(n,)`; and `errors`, strings `(n,)`.
        """
        latents, errors = self._check_latents(latents)

        def encode(latents):
            return tf.io.encode_png(to_bytes(self.model.draw(latents[None])[0]))

        png = tf.map_fn(
            encode, latents, fn_output_signature=tf.string, parallel_iterations=2
        )
        return limits.answer({"image_bytes": png}, errors)

    def draw_pixels(self, latents):
        """Draws a face from each latent vector, `(n, latent_size)`.

        Returns:
            `images`, `(n, size, size, 3)` from 0 to 255; and `errors`, strings `(n,)`.
        """
        latents, errors = self._check_latents(latents)
        pixels = limits.call_network(self.model.draw, latents)
        return limits.answer({"images": 127.5 * (pixels + 1)}, errors)

    def reconstruct(self, image_bytes):
        """Encodes images, and draws them again from the means of their latent vectors.

        Args:
            image_bytes: Encoded images, strings `(n,)`.

        Returns:
            `reconstruction_bytes`, PNG files `(n,)`; `latents`, `(n, latent_size)`;
            `elbo`, the evidence lower bound in nats, and `squared_error`, the mean of
            the pixels from −1 to 1, both `(n,)`; and `errors`, strings `(n,)`.
        """
        (pixels,), errors = decode_each(
            limits.check_shape(image_bytes, "image_bytes", [None], [limits.MAX_INPUTS]),
            lambda image: [resize_image(image, self.size, self.config.resize)],
            [tf.TensorSpec([self.size, self.size, 3])],
        )
        parts = limits.call_network(
            lambda pixels: self.model.lower_bound(scale_pixels(pixels)), pixels
        )
        outputs = {
            "reconstruction_bytes": self.draw_latents(parts["latents"])["image_bytes"],
            "latents": parts["latents"],
            "elbo": parts["reconstruction"] - parts["divergence"],
            "squared_error": parts["squared_error"],
        }
        return limits.answer(outputs, errors)

    def draw_batch(self, seeds):
        """Draws a face from each seed in one batch; returns uint8 `(n, size, size, 3)`.

        Pixels may differ by a grey level from those of `draw`.
        """
        noise = tf.map_fn(
            lambda seed: noise_of(seed, self.latent_size),
            seeds,
            fn_output_signature=tf.TensorSpec([self.latent_size]),
        )
        values = self._one_hot(self._draw_codes(seeds))
        return to_bytes(self.model.draw(self.model.map_noise(noise, values)))

    def draw_one(self, noise, values):
        """Returns the latent vector and the pixels of one face.

        Args:
            noise: `(latent_size,)`.
            values: Its attributes, one-hot `(values,)`.

        Returns:
            float32 `(latent_size,)`, and uint8 `(size, size, 3)`.
        """
        latents = self.model.map_noise(noise[None], values[None])
        return latents[0], to_bytes(self.model.draw(latents)[0])

    def _answer(self, seeds, codes, errors):
        """Returns the answers to checked seeds and the indices of attribute values."""
        values = self._one_hot(codes)

        def encode(pair):
            seed, values = pair
            latents, pixels = self.draw_one(noise_of(seed, self.latent_size), values)
            return latents, tf.io.encode_png(pixels)

        latents, png = tf.map_fn(
            encode,
            (seeds, values),
            fn_output_signature=(tf.TensorSpec([self.latent_size]), tf.string),
            parallel_iterations=2,
        )
        outputs = {"image_bytes": png, "latents": latents}
        if self.attributes:
            names = [
                tf.gather(each.values, codes[:, j])
                for j, each in enumerate(self.attributes)
            ]
            outputs["attributes"] = tf.stack(names, axis=1)
        return limits.answer(outputs, errors)

    def _draw_codes(self, seeds):
        """Returns attributes as frequent as in training, int64 `(n, attributes)`."""
        if not self.attributes:
            return tf.zeros((tf.size(seeds), 0), tf.int64)
        bounds = tf.constant(np.cumsum(self.probabilities)[:-1], tf.float32)
        numbers = tf.map_fn(uniform_of, seeds, fn_output_signature=tf.float32)
        rows = tf.searchsorted(bounds, numbers, side="right")
        return tf.gather(tf.constant(self.combinations, tf.int64), rows)

    def _one_hot(self, codes):
        parts = [
            tf.one_hot(codes[:, j], len(each.values))
            for j, each in enumerate(self.attributes)
        ]
        return tf.concat(parts or [tf.cast(codes, tf.float32)], axis=1)

    def _check_latents(self, latents):
        """Returns checked latent vectors, zeros instead of bad ones, and errors."""
        shape = [None, self.latent_size]
        latents = limits.check_shape(
            latents, "latents", shape, [limits.MAX_INPUTS, self.latent_size]
        )
        # Written so that NaN fails too.
        is_good = tf.reduce_all(tf.abs(latents) <= MAX_LATENT, axis=1)
        message = f"the latents must be from {-MAX_LATENT:g} to {MAX_LATENT:g}"
        errors = limits.first_error((~is_good, message))
        return tf.where(is_good[:, None], latents, 0), errors


def _check_seeds(seeds):
    """Returns the check of seeds for `limits.first_error`."""
    message = f"the seed must be a whole number from 0 to {MAX_SEED}"
    return (seeds < 0) | (seeds > MAX_SEED), message


def noise_of(seed, size):
    """Returns the noise of a seed, standard normal `(size,)`; `edge.py` repeats it."""
    return tf.random.stateless_normal([size], [seed, 0], alg="philox")


def uniform_of(seed):
    """Returns another number of a seed, from 0 to 1, which draws the attributes."""
    return tf.random.stateless_uniform([], [seed, 1], alg="philox")


def to_bytes(pixels):
    """Returns pixels from −1 to 1 as uint8."""
    return tf.cast(tf.clip_by_value(tf.round(127.5 * (pixels + 1)), 0, 255), tf.uint8)


def for_inference(model):
    """Rounds the weights of a model to half precision, as exported models store them.

    So a seed gives the same face in every engine.

    Args:
        model: A trained model, which is changed.
    """
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(tf.cast(tf.cast(weight, tf.float16), tf.float32))
    return model


def load_run(run: Path) -> Synthesizer:
    """Returns the best model of a run as a `Synthesizer`."""
    model = keras.saving.load_model(run / "model.keras", compile=False)
    config = runs.load_config(Config, run)
    attributes, combinations, probabilities = attributes_module.load(run)
    return Synthesizer(
        for_inference(model), attributes, combinations, probabilities, config
    )


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(
        where, "face_synthesis", lambda run: load_run(run).signatures, signature
    )
