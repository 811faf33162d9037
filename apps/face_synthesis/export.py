"""Exports a model that draws faces for TensorFlow Serving and for devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.image_headers import MAX_PIXELS
from apps.common.images import encode_png
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.face_synthesis import attributes as attributes_module
from apps.face_synthesis import edge, metrics
from apps.face_synthesis.attributes import labels
from apps.face_synthesis.config import Config
from apps.face_synthesis.data import keep_complete, load_examples, load_pixels
from apps.face_synthesis.evaluate import draw_faces
from apps.face_synthesis.signatures import LIMITS, load_model, load_run

# Bound: the mean difference from the trained model's faces, in grey levels.
MAX_DIFFERENCE = 1.0


def export(run: Path, to: Path, variants: Sequence[str], replace: bool = False) -> Path:
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
    synthesizer = load_run(run)
    splits = load_examples(config, runs.read_held_out(run))
    keep_complete(splits, synthesizer.attributes)
    return release(
        run,
        to,
        variants,
        served(synthesizer),
        bundle(synthesizer),
        exam(splits["test"], config),
        card(config, synthesizer, splits),
        replace,
    )


def served(synthesizer):
    """Returns what TensorFlow Serving gets."""
    size = synthesizer.size
    latents = np.zeros((1, synthesizer.latent_size), "float32")
    grey = np.full((size, size, 3), 128, "uint8")
    warm_up = {
        "serving_default": np.zeros(1, "int64"),
        "with_attributes": [["0"] + len(synthesizer.attributes) * [""]],
        "latent": latents,
        "tensors": latents,
        "reconstruct": [encode_png(grey)],
    }
    return Served(
        synthesizer.signatures,
        synthesizer.weights,
        warm_up={name: warm_up[name] for name in synthesizer.signatures},
        half=True,
    )


def bundle(synthesizer):
    """Returns what a device gets: the drawing, with the noise as an input."""
    model = synthesizer.model
    noise = tf.TensorSpec([1, synthesizer.latent_size], name="noise")
    values = tf.TensorSpec([1, model.num_values], name="values")

    def draw(noise, *values):
        latents = model.map_noise(noise, values[0] if values else tf.zeros((1, 0)))
        return {"latents": latents, "images": model.draw(latents)}

    latents = tf.TensorSpec([1, synthesizer.latent_size], name="latents")
    signatures = {
        "draw": tf.function(
            draw, input_signature=[noise, *([values] if model.num_values else [])]
        ),
        "draw_latents": tf.function(
            lambda latents: {"images": model.draw(latents)}, input_signature=[latents]
        ),
    }

    def write_files(folder):
        attributes_module.save(
            synthesizer.attributes,
            synthesizer.combinations,
            synthesizer.probabilities,
            folder,
        )

    return Bundle(
        edge.__file__,
        ["pillow>=11"],
        synthesizer.weights,
        signatures,
        write_files=write_files,
    )


def exam(test_examples, config):
    """Returns how engines are measured."""
    features = metrics.Features(config.weights)
    test_examples = datasets.evenly(test_examples, metrics.MAX_FACES)
    real = features(load_pixels(test_examples, config))

    def measure(predictor, reference):
        pixels = draw_faces(predictor, config.num_samples)["pixels"].astype("int16")
        reference = pixels if reference is None else reference
        scores = metrics.score(features(pixels.astype("uint8")), real)
        difference = float(np.mean(np.abs(pixels - reference)))
        return {
            **{name: float(f"{value:.5g}") for name, value in scores.items()},
            "pixel_difference": round(difference, 4),
        }, reference

    return Exam(
        load_model,
        measure,
        0,
        difference="pixel_difference",
        bounds=dict.fromkeys(("SavedModel", "float32"), MAX_DIFFERENCE),
        metric="pixel_difference",
        max_loss=MAX_DIFFERENCE,
        higher_is_better=False,
    )


def card(config, synthesizer, splits):
    """Returns the texts of the model card."""
    kinds = {
        "vae": f"A variational autoencoder, β {config.beta:g}",
        "gan": "A generative adversarial network",
        "conditional_gan": "A conditional generative adversarial network",
    }
    size, features = (
        config.image_size,
        "MobileNetV2" if config.weights else "EfficientNetLite0",
    )
    is_encoder = config.model == "vae"
    names = ", ".join(each.name for each in synthesizer.attributes)
    conditional = (
        "`attributes`, strings. `with_attributes`: `seed_and_attributes` (strings: the "
        f"seed, {names}; an empty value is drawn) → the same. "
    )
    encoder = (
        " `reconstruct`: `image_bytes` (JPEG, PNG, BMP or GIF) → "
        "`reconstruction_bytes`, `latents`, `elbo` in nats, `squared_error` of the "
        "pixels from −1 to 1."
    )
    return Card(
        name=f"Face synthesis, {config.model.replace('_', ' ')}",
        description=(
            f"{kinds[config.model]}, whose generator draws {size} × {size} pixels from "
            f"{config.latent_size} latent numbers."
        ),
        unit="images",
        recommendation=(
            f"whose faces differ by at most {MAX_DIFFERENCE:g} grey level on average "
            "from the trained model's"
        ),
        signatures=(
            "`serving_default`: `seed` (int64) → `image_bytes`, a PNG file; `latents`; "
            f"{conditional if synthesizer.attributes else ''}"
            "`latent`: `latents` (float32) → `image_bytes`. `tensors`: `latents` → "
            f"`images` (float32 from 0 to 255, {size} × {size})."
            f"{encoder if is_encoder else ''} `errors` says what is wrong "
            "with each input, and is empty if nothing is."
        ),
        limits={**LIMITS, **({"max_pixels": MAX_PIXELS} if is_encoder else {})},
        config=config,
        files_setting="weights",
        num_examples=datasets.sizes(splits),
        classes=labels(synthesizer.attributes),
        facts={
            "Scores": (
                f"{config.num_samples} faces of the seeds from 0 on are compared with "
                f"the test images, on features of {features} at "
                f"{metrics.FEATURE_PIXELS} × {metrics.FEATURE_PIXELS} pixels. The "
                "Fréchet distance is not FID, which is on features of Inception."
            ),
            "Differences": (
                "`pixel difference` is the mean absolute difference from the trained "
                "model's faces in grey levels. All engines use weights that are "
                "rounded to half precision."
            ),
            "Use": (
                "The faces are those of nobody, but resemble the people of the "
                "training data, with its biases. Say that they are generated wherever "
                "you show them, and do not pass them off as people."
            ),
        },
    )
