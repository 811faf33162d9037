"""Exports a captioner for TensorFlow Serving and for devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.decoder import device_signatures
from apps.common.images import encode_png
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.image_captioning import edge, metrics
from apps.image_captioning.config import Config
from apps.image_captioning.data import load_examples
from apps.image_captioning.evaluate import score
from apps.image_captioning.signatures import (
    LIMITS,
    load_model,
    load_run,
    save_tokenizer,
)

# Bound: the fraction of captions that may differ from the trained model's.
MAX_CHANGED_CAPTIONS = 0.03


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
    captioner = load_run(run)
    splits = load_examples(config, runs.read_held_out(run))
    return release(
        run,
        to,
        variants,
        served(captioner),
        bundle(captioner),
        exam(splits["test"]),
        card(config, captioner, splits),
        replace,
    )


def served(captioner):
    """Returns what TensorFlow Serving gets."""
    size = captioner.size
    grey = np.full((size, size, 3), 128, "uint8")
    return Served(
        captioner.signatures,
        captioner.model.weights,
        warm_up={
            "serving_default": [encode_png(grey)],
            "greedy": [encode_png(grey)],
            "tensors": grey[None].astype("float32"),
        },
        half=True,
        resources=[captioner.tokenizer.sentencepiece],
    )


def bundle(captioner):
    """Returns what a device gets."""
    model, size = captioner.model, captioner.size
    settings = {
        "resize": captioner.config.resize,
        "beam_size": captioner.config.beam_size,
        "length_penalty": captioner.config.length_penalty,
        "max_tokens": captioner.config.max_tokens,
        "grid": model.grid,
    }

    def write_files(folder):
        save_tokenizer(captioner.tokenizer, folder)
        runs.write_json(folder / "settings.json", settings)

    return Bundle(
        edge.__file__,
        ["pillow>=11", "sentencepiece>=0.2"],
        model.weights,
        device_signatures(
            lambda images: model.encode(model.extract(images)),
            tf.TensorSpec([1, size, size, 3], name="images"),
            model.decoder,
            captioner.bias,
            captioner.config.beam_size,
        ),
        write_files=write_files,
    )


def exam(test_examples):
    """Returns how engines are measured."""

    def measure(predictor, reference):
        captions = score(predictor, test_examples).captions
        reference = reference or captions
        scores = metrics.score(captions, test_examples.captions)
        pairs = zip(captions, reference, strict=True)
        changed = float(np.mean([ours != theirs for ours, theirs in pairs]))
        return {
            "bleu_4": round(scores["bleu_4"], 4),
            "cider": round(scores["cider"], 4),
            "changed_captions": round(changed, 4),
        }, captions

    return Exam(
        load_model,
        measure,
        test_examples.image_bytes(0),
        difference="changed_captions",
        bounds=dict.fromkeys(("SavedModel", "float32"), MAX_CHANGED_CAPTIONS),
        metric="changed_captions",
        max_loss=MAX_CHANGED_CAPTIONS,
        higher_is_better=False,
    )


def card(config, captioner, splits):
    """Returns the texts of the model card."""
    rows, columns = captioner.model.grid
    return Card(
        name="Image captioning",
        description=(
            f"{config.backbone} at {config.image_size} × {config.image_size} pixels, "
            f"and an LSTM decoder of {config.units} units with {config.attention} "
            f"attention to {rows} × {columns} places; {len(captioner.tokenizer)} "
            f"{config.token} tokens, {config.beam_size} beams."
        ),
        unit="images",
        recommendation=(
            f"that changes at most {100 * MAX_CHANGED_CAPTIONS:.0f} % more captions "
            "than the SavedModel"
        ),
        signatures=(
            "`serving_default`: `image_bytes` (JPEG, PNG, BMP or GIF) → `captions`; "
            "`scores`, log-probabilities divided by the length penalty; `tokens`, "
            f"{config.max_tokens} strings for each image, empty after the end; "
            f"`attention`, for each token {rows} × {columns} weights of the places of "
            "the image. `greedy`: the same with one beam. `tensors`: `images` (float32 "
            f"from 0 to 255, {config.image_size} × {config.image_size}) → the same. "
            "`errors` says what is wrong with each image, and is empty if nothing is."
        ),
        limits=LIMITS,
        config=config,
        files_setting="weights",
        num_examples=datasets.sizes(splits),
        facts={
            "Differences": (
                "`changed captions` is the fraction of images whose caption differs "
                "from the trained model's. All engines use weights that are rounded to "
                "half precision."
            )
        },
    )
