"""Exports a trained translator for TensorFlow Serving and for devices."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import runs, saved_models
from apps.translation import edge, metrics
from apps.translation.config import Config
from apps.translation.data import load_pairs
from apps.translation.evaluate import translate
from apps.translation.model import (
    Memory,
    State,
    load_model,
    load_translator,
    save_tokenizers,
)
from apps.translation.parts import most_words
from apps.translation.tokenizer import END

VARIANTS = ("float32", "float16", "dynamic_range")

# The promise: how many translations may differ at all from those of the trained model.
CHANGED_TRANSLATIONS = 0.02


def export(run: Path, to: Path, variants=VARIANTS):
    """Publishes a run as the next version of a served model, with an edge bundle.

    All engines translate the test split first. A SavedModel or float32 model that
    translates more than a fiftieth of the sentences otherwise than the trained model
    stops the export; another variant that does so is left out. The leanest that remains
    becomes the bundle's `model.tflite`.

    Args:
        run: A run directory.
        to: The directory that TensorFlow Serving reads, such as
            `saved_models/translation`.
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
    translator = load_translator(run)
    splits = load_pairs(config)

    with saved_models.staging(to) as stage:
        version = saved_models.next_version(to)
        saved_model = stage / str(version)
        saved_models.save(
            translator.model.variables,
            {
                "serving_default": translator.serving_default,
                "greedy": translator.greedy,
                "tensors": translator.tensors,
            },
            saved_model,
            half=True,
            resources=[tokenizer.pieces for tokenizer in translator.tokenizers],
        )
        text = {"text": tf.make_tensor_proto(["warm up"])}
        saved_models.write_warm_up(
            saved_model,
            to.name,
            {
                "serving_default": text,
                "greedy": text,
                "tensors": {"tokens": tf.make_tensor_proto([[4, 3]], tf.int32)},
            },
        )
        operations = make_bundle(translator, stage / "edge", variants)

        engines = saved_models.measure_engines(
            saved_models.exported_engines(run, saved_model, stage / "edge", variants),
            load_model,
            lambda predictor, reference: measure(
                predictor, splits["test"], config.target_column, reference
            ),
            splits["test"].sources[0],
        )
        saved_models.check(
            engines,
            "changed_translations",
            {"SavedModel": CHANGED_TRANSLATIONS, "float32": CHANGED_TRANSLATIONS},
        )
        recommended = saved_models.recommend(
            stage / "edge",
            engines,
            variants,
            "same_translations",
            CHANGED_TRANSLATIONS,
        )
        saved_models.write_card(
            stage,
            {
                "name": f"Translation: {config.source_column} → {config.target_column}",
                "description": (
                    f"An LSTM of {config.encoder_units} units in both directions "
                    f"reads, one of {config.decoder_units} writes, with "
                    f"{config.attention} attention and a beam of {config.beam_size}; "
                    f"{len(translator.target_tokenizer)} pieces of words. Every row "
                    f"was scored on the same {len(splits['test'])} test sentences, "
                    "which took no part in training or in the choice of the epoch, "
                    "with `python -m apps.translation evaluate`."
                ),
                "engines": engines,
                "recommended": (
                    f"Recommended on a device: {recommended}, as "
                    "`edge/model.tflite`, the leanest that translates "
                    f"{100 * (1 - CHANGED_TRANSLATIONS):.0f} % of the sentences just "
                    "as the trained model does."
                ),
                "facts": {
                    "Signatures": (
                        "`serving_default`: `text` (UTF-8, any length) → "
                        "`translations`; their `scores`, log-probability over length "
                        "penalty; `source_pieces` and `pieces`, what was read and "
                        "written, padded with empty strings; and `attention` between "
                        "them, one row for each piece written. `greedy`: the same with "
                        "a beam of one. `tensors`: `tokens` (int32 numbers of source "
                        f"pieces, {END} the last, padded with 0) → `tokens` of the "
                        "translation, `scores`, `attention`. Texts of more than "
                        f"{most_words(config)} words are translated in parts."
                    ),
                    "Training": training_facts(run, config, splits),
                    "Data and licence": f"`{config.data}`: {config.data_licence}.",
                },
                "operations": operations[recommended],
                "config": saved_models.card_config(config, "target_data"),
            },
        )
        saved_models.publish(stage, to, version)
    return to / str(version)


def make_bundle(translator, folder: Path, variants):
    """Writes what a device needs: model variants, tokenizers, program.

    Returns:
        The operations of each variant and their numbers.
    """
    folder.mkdir()
    save_tokenizers(translator.tokenizers, folder)
    long, replacements = translator.patterns
    search = {
        "beam_size": translator.beam_size,
        "length_penalty": translator.length_penalty,
        "long": long,
        "replacements": replacements,
    }
    runs.write_json(folder / "search.json", search)
    return saved_models.write_bundle(
        folder,
        edge.__file__,
        "sentencepiece>=0.2",
        (),
        translator.model.variables,
        steps_of_device(translator),
        variants,
    )


def steps_of_device(translator):
    """Returns what a device asks of the model, for one sentence at a time.

    Returns:
        `encode`, a function from `tokens`, `(1, steps)`, to all that `decode` needs of
        the sentence and its first state; and `decode`, from that and the pieces written
        last, `(1, beams)`, to the next state, the likeliest next `tokens` and their
        `log_probs`, `(1, beams, candidates)`, and the `attention`.
    """
    model = translator.model

    def encode(tokens):
        memory = model.encode(tokens, padded=False)  # So the LSTM is one operation.
        state = model.begin(memory)
        return {
            **{name: value[:, None] for name, value in state._asdict().items()},
            **{name: getattr(memory, name) for name in ("values", "keys", "summary")},
        }

    def decode(tokens, h, c, readout, values, keys, summary):
        state, memory = State(h, c, readout), Memory(values, keys, summary, None)
        log_probs, state, attention = translator.step(tokens, state, memory)
        log_probs, tokens = tf.math.top_k(log_probs, translator.beam_size)
        return {
            **state._asdict(),
            "log_probs": log_probs,
            "tokens": tokens,
            "attention": attention,
        }

    sentence = [tf.TensorSpec([1, None], tf.int32, name="tokens")]
    shapes = tf.function(encode, input_signature=sentence).get_concrete_function()
    inputs = [
        tf.TensorSpec([1, None, *value.shape[2:]], name=name)
        if len(value.shape) > 2
        else tf.TensorSpec(value.shape, name=name)
        for name, value in shapes.structured_outputs.items()
    ]
    return {
        "encode": tf.function(encode, input_signature=sentence),
        "decode": tf.function(decode, input_signature=[*sentence, *inputs]),
    }


def measure(predictor, pairs, language, reference):
    """Returns the measurements of one engine, and what the others are compared with.

    Args:
        predictor: The engine.
        pairs: The test sentences.
        language: The language that is written.
        reference: The translations of the trained model, or None for that one itself.
    """
    translations = translate(predictor, pairs).translations
    reference = reference or translations
    scores = metrics.score(translations, pairs.targets, language)
    same = np.mean([a == b for a, b in zip(translations, reference, strict=True)])
    return {
        **{
            name: round(scores[name], 2)
            for name in ("bleu", "bleu_lowercased_tokenized", "chrf")
        },
        "same_translations": round(float(same), 4),
        "changed_translations": round(1 - float(same), 4),
    }, reference


def training_facts(run, config, splits):
    """Returns how the model was trained, as sentences."""
    summary = runs.summary(run)
    return (
        f"{len(splits['train'])} pairs to learn from, {len(splits['validation'])} to "
        f"choose the epoch, seed {config.seed}. Best epoch {summary['best_epoch']} of "
        f"{summary['epochs']}, with a validation BLEU of {summary['val_bleu']:.2f}, "
        f"greedy; {summary['minutes']} minutes."
    )
