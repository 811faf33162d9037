"""Exports a trained classifier for TensorFlow Serving and for devices."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import runs, saved_models
from apps.common.predictors import load_predictor
from apps.sentiment_analysis import edge
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_examples
from apps.sentiment_analysis.evaluate import score, summarize
from apps.sentiment_analysis.model import (
    load_classifier,
    with_attention,
    without_padding,
)
from apps.sentiment_analysis.tokenizer import CLEANING

# Eight-bit activations are left out: the fused LSTM is several times slower with them.
VARIANTS = ("float32", "dynamic_range")

# The promises. Score differences are the largest of any class, for all but the oddest
# text in a thousand: between equally likely ways to split `///`, the SentencePiece in
# TensorFlow and that on a device may choose differently.
USUAL_TEXTS = 0.999
SAVED_MODEL_DIFFERENCE = 1e-4
FLOAT32_DIFFERENCE = 1e-3
CHANGED_CLASSES = 0.01


def export(run: Path, to: Path, variants=VARIANTS):
    """Publishes a run as the next version of a served model, with an edge bundle.

    Everything is scored on the test split first. A SavedModel or float32 model that
    does not answer as the trained model does stops the export; a quantized one that
    gives more than a hundredth of the texts another class is left out. The leanest
    variant that remains becomes the bundle's `model.tflite`.

    Args:
        run: A run directory.
        to: The directory that TensorFlow Serving reads, such as
            `saved_models/sentiment_analysis`.
        variants: The TensorFlow Lite variants to put into the bundle.

    Returns:
        The directory of the version.

    Raises:
        BadInput: The run holds no trained model.
        ExportRefused: The exported model does not do what the trained one does.
    """
    runs.require_finished(run)
    variants = list(dict.fromkeys(variants))
    config = runs.load_config(Config, run)
    classifier = load_classifier(run)
    splits, class_names = load_examples(config)

    with saved_models.staging(to) as stage:
        version = saved_models.next_version(to)
        saved_model = stage / str(version)
        saved_models.save(
            classifier.model.variables,
            {
                "serving_default": classifier.serving_default,
                "tensors": classifier.tensors,
            },
            saved_model,
            resources=[classifier.tokenizer.pieces],
        )
        saved_models.write_warm_up(
            saved_model,
            to.name,
            {
                "serving_default": {"text": tf.make_tensor_proto(["warm up"])},
                "tensors": {"tokens": tf.make_tensor_proto([[1, 1, 1]], tf.int32)},
            },
        )
        operations = make_bundle(classifier, stage / "edge", variants)

        engines = saved_models.measure_engines(
            saved_models.exported_engines(run, saved_model, stage / "edge", variants),
            lambda where: load_predictor(where, load_classifier),
            lambda predictor, reference: measure(
                predictor, splits["test"], class_names, reference
            ),
            splits["test"].texts[0],
        )
        saved_models.check(
            engines,
            "score_difference",
            {"SavedModel": SAVED_MODEL_DIFFERENCE, "float32": FLOAT32_DIFFERENCE},
        )
        recommended = saved_models.recommend(
            stage / "edge", engines, variants, "same_classes", CHANGED_CLASSES
        )
        saved_models.write_card(
            stage,
            {
                "name": f"Sentiment analysis: {', '.join(class_names)}",
                "description": (
                    f"An LSTM of {config.units} units in both directions with "
                    f"attention, on {len(classifier.tokenizer)} pieces of words. Every "
                    f"row was scored on the same {len(splits['test'])} test texts, "
                    "which took no part in training or in the choice of the epoch, "
                    "with `python -m apps.sentiment_analysis evaluate`."
                ),
                "engines": engines,
                "recommended": (
                    f"Recommended on a device: {recommended}, as `edge/model.tflite`, "
                    f"the leanest that gives {100 * (1 - CHANGED_CLASSES):.0f} % of "
                    "the texts the same class."
                ),
                "facts": {
                    "Signatures": (
                        "`serving_default`: `text` (UTF-8, any length) → `classes`, "
                        "`scores`, best first; `tokens` (the pieces read) and their "
                        "`attention`, padded with empty strings and zeros. `tensors`: "
                        "`tokens` (int32 numbers of pieces, padded with 0) → `scores`, "
                        "in the order of `edge/labels.txt`, and `attention`."
                    ),
                    "Training": training_facts(run, config, splits),
                    "Data and licence": f"`{config.data}`: {config.data_licence}.",
                },
                "operations": operations[recommended],
                "classes": class_names,
                "config": saved_models.card_config(config, "word_vectors"),
            },
        )
        saved_models.publish(stage, to, version)
    return to / str(version)


def make_bundle(classifier, folder: Path, variants):
    """Writes what a device needs: model variants, labels, tokenizer, program.

    Returns:
        The operations of each variant and their numbers.
    """
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(classifier.tokenizer.model)
    (folder / "cleaning.json").write_text(json.dumps(CLEANING, indent=1) + "\n")
    # One text at a time, as long as it is: without a mask, the LSTM is one operation.
    network = with_attention(without_padding(classifier.model))
    signature = tf.function(
        lambda tokens: network(tokens, training=False),
        input_signature=[tf.TensorSpec([1, None], tf.int32, name="tokens")],
    )
    return saved_models.write_bundle(
        folder,
        edge.__file__,
        "sentencepiece>=0.2",
        [name.decode() for name in classifier.class_names.numpy()],
        network.variables,
        signature,
        variants,
    )


def measure(predictor, examples, class_names, reference):
    """Returns the measurements of one engine, and what the others are compared with.

    Args:
        predictor: The engine.
        examples: The test texts.
        class_names: What their labels stand for.
        reference: The `Scores` of the trained model, or None for that one itself.
    """
    result = score(predictor, examples, class_names)
    reference = reference or result
    report = summarize(result)
    differences = np.abs(result.scores - reference.scores).max(axis=1)
    difference = np.quantile(differences, USUAL_TEXTS, method="lower")
    return {
        **{
            name: round(report[name], 4)
            for name in ("macro_recall", "accuracy", "expected_calibration_error")
        },
        "same_classes": round(
            float(np.mean(result.predictions == reference.predictions)), 4
        ),
        "score_difference": float(f"{difference:.2g}"),
    }, reference


def training_facts(run, config, splits):
    """Returns how the model was trained, as sentences."""
    summary = runs.summary(run)
    return (
        f"{len(splits['train'])} texts to learn from, {len(splits['validation'])} to "
        f"choose the epoch, seed {config.seed}. Best epoch "
        f"{summary['best_epoch']} of {summary['epochs']}, with validation "
        f"macro-averaged recall {summary['val_macro_recall']:.4f}; "
        f"{summary['minutes']} minutes."
    )
