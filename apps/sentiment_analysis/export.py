"""Exports a classifier for TensorFlow Serving and for devices."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.sentiment_analysis import edge
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_examples
from apps.sentiment_analysis.evaluate import score, summarize
from apps.sentiment_analysis.model import with_attention, without_padding
from apps.sentiment_analysis.signatures import LIMITS, load_model, load_run
from apps.sentiment_analysis.tokenizer import CLEANING

# Bounds: the largest difference of any score, and the fraction of texts to which a
# quantized variant may give another class. The difference ignores one text in a
# thousand: if two segmentations of a text are equally likely, as for `///`,
# TensorFlow's SentencePiece and that of a device may choose differently.
MAX_SAVED_MODEL_DIFFERENCE = 1e-4
MAX_FLOAT32_DIFFERENCE = 1e-3
DIFFERENCE_QUANTILE = 0.999
MAX_CHANGED_CLASSES = 0.01


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
    classifier = load_run(run)
    splits = load_examples(config, runs.read_held_out(run))
    return release(
        run,
        to,
        variants,
        served(classifier),
        bundle(classifier),
        exam(splits["test"]),
        card(config, classifier, splits),
        replace,
    )


def served(classifier):
    """Returns what TensorFlow Serving gets."""
    return Served(
        classifier.signatures,
        classifier.model.variables,
        warm_up={
            "serving_default": ["warm up"],
            "with_attention": ["warm up"],
            "tensors": np.ones((1, 3), "int32"),
        },
        resources=[classifier.tokenizer.sentencepiece],
    )


def bundle(classifier):
    """Returns what a device gets."""
    # One text at a time, without padding, so that the LSTM is one fused operation.
    network = with_attention(without_padding(classifier.model))
    one_text = tf.TensorSpec([1, None], tf.int32, name="token_ids")
    score_text = tf.function(
        lambda token_ids: network(token_ids, training=False),
        input_signature=[one_text],
    )

    def write_tokenizer(folder):
        (folder / "tokenizer.model").write_bytes(classifier.tokenizer.model)
        (folder / "cleaning.json").write_text(json.dumps(CLEANING, indent=1) + "\n")

    return Bundle(
        edge.__file__,
        ["sentencepiece>=0.2"],
        network.variables,
        {"serving_default": score_text},
        labels=classifier.class_names,
        write_files=write_tokenizer,
    )


def exam(test_examples):
    """Returns how engines are measured."""

    def measure(predictor, reference):
        result = score(predictor, test_examples)
        reference = reference or result
        report = summarize(result)
        differences = np.abs(result.scores - reference.scores).max(axis=1)
        difference = np.quantile(differences, DIFFERENCE_QUANTILE, method="lower")
        changed = np.mean(result.predictions != reference.predictions)
        return {
            "macro_recall": round(report["macro_recall"], 4),
            "accuracy": round(report["accuracy"], 4),
            "expected_calibration_error": round(
                report["expected_calibration_error"], 4
            ),
            "changed_classes": round(float(changed), 4),
            "score_difference": float(f"{difference:.2g}"),
        }, result

    return Exam(
        load_model,
        measure,
        test_examples.texts[0],
        difference="score_difference",
        bounds={
            "SavedModel": MAX_SAVED_MODEL_DIFFERENCE,
            "float32": MAX_FLOAT32_DIFFERENCE,
        },
        metric="changed_classes",
        max_loss=MAX_CHANGED_CLASSES,
        higher_is_better=False,
    )


def card(config, classifier, splits):
    """Returns the texts of the model card."""
    return Card(
        name=f"Sentiment analysis: {', '.join(classifier.class_names)}",
        description=(
            f"A bidirectional LSTM of {config.units} units with attention"
            f"{', mixed with a linear model,' if config.linear_branch else ''} on "
            f"{len(classifier.tokenizer)} subword tokens."
        ),
        unit="texts",
        recommendation=(
            f"that gives {100 * (1 - MAX_CHANGED_CLASSES):.0f} % of the texts the same "
            "class as the trained model"
        ),
        signatures=(
            "`serving_default`: `text` (UTF-8) → `classes`, `scores`, best first. "
            "`with_attention`: the same, the subword `tokens` of the text and their "
            "`attention`, both separated by spaces. `tensors`: `token_ids` (int32, "
            "padded with 0) → `scores`, in the order of `edge/labels.txt`, and "
            "`attention`. `errors` says what is wrong with each text, and is empty if "
            "nothing is. The server must not batch `tensors` with "
            "`pad_variable_length_inputs`."
        ),
        limits=LIMITS,
        config=config,
        files_setting="word_vectors",
        num_examples=datasets.sizes(splits),
        classes=classifier.class_names,
        facts={
            "Differences": (
                "`changed classes` is the fraction of texts whose class differs from "
                "the trained model's. `score difference` is the largest difference of "
                f"any score, over {100 * DIFFERENCE_QUANTILE:.1f} % of the texts."
            )
        },
    )
