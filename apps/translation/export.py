"""Exports a translator for TensorFlow Serving and for devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.decoder import device_signatures
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.common.tokenizer import END
from apps.translation import edge, metrics
from apps.translation.config import Config
from apps.translation.data import load_examples
from apps.translation.evaluate import score
from apps.translation.parts import max_words
from apps.translation.signatures import (
    LIMITS,
    load_model,
    load_run,
    save_tokenizers,
)

# Bound: the fraction of sentences whose translation may differ from the trained
# model's.
MAX_CHANGED_TRANSLATIONS = 0.02


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
    translator = load_run(run)
    splits = load_examples(config, runs.read_held_out(run))
    return release(
        run,
        to,
        variants,
        served(translator),
        bundle(translator),
        exam(splits["test"], config.target_column),
        card(config, translator, splits),
        replace,
    )


def served(translator):
    """Returns what TensorFlow Serving gets."""
    return Served(
        translator.signatures,
        translator.model.weights,
        warm_up={
            "serving_default": ["warm up"],
            "greedy": ["warm up"],
            "with_attention": ["warm up"],
            "tensors": [[4, END]],
        },
        half=True,
        resources=[tokenizer.sentencepiece for tokenizer in translator.tokenizers],
    )


def bundle(translator):
    """Returns what a device gets."""
    long_text, replacements = translator.patterns
    search = {
        "beam_size": translator.beam_size,
        "length_penalty": translator.length_penalty,
        "long_text": long_text,
        "replacements": replacements,
    }

    def write_files(folder):
        save_tokenizers(translator.tokenizers, folder)
        runs.write_json(folder / "search.json", search)

    return Bundle(
        edge.__file__,
        ["sentencepiece>=0.2"],
        translator.model.weights,
        device_signatures(
            lambda token_ids: translator.model.encode(token_ids, has_padding=False),
            tf.TensorSpec([1, None], tf.int32, name="token_ids"),
            translator.model.decoder,
            translator.bias,
            translator.beam_size,
        ),
        write_files=write_files,
    )


def exam(test_examples, language):
    """Returns how engines are measured."""

    def measure(predictor, reference):
        translations = score(predictor, test_examples).translations
        reference = reference or translations
        scores = metrics.score(translations, test_examples.targets, language)
        pairs = zip(translations, reference, strict=True)
        changed = float(np.mean([ours != theirs for ours, theirs in pairs]))
        return {
            "bleu": round(scores["bleu"], 2),
            "bleu_lowercased_tokenized": round(scores["bleu_lowercased_tokenized"], 2),
            "chrf": round(scores["chrf"], 2),
            "changed_translations": round(changed, 4),
        }, translations

    return Exam(
        load_model,
        measure,
        test_examples.sources[0],
        difference="changed_translations",
        bounds=dict.fromkeys(("SavedModel", "float32"), MAX_CHANGED_TRANSLATIONS),
        metric="changed_translations",
        max_loss=MAX_CHANGED_TRANSLATIONS,
        higher_is_better=False,
    )


def card(config, translator, splits):
    """Returns the texts of the model card."""
    return Card(
        name=f"Translation: {config.source_column} → {config.target_column}",
        description=(
            f"A bidirectional LSTM encoder of {config.encoder_units} units and an LSTM "
            f"decoder of {config.decoder_units} units, {config.attention} attention, "
            f"{config.beam_size} beams; {len(translator.target_tokenizer)} subword "
            "tokens."
        ),
        unit="sentences",
        recommendation=(
            f"that changes at most {100 * MAX_CHANGED_TRANSLATIONS:.0f} % more "
            "translations than the SavedModel"
        ),
        signatures=(
            "`serving_default`: `text` (UTF-8) → `translations`; `scores`, "
            "log-probabilities divided by the length penalty. `greedy`: the same with "
            "one beam. `with_attention`: the same as `serving_default`, the subword "
            "tokens, `source_tokens` and `target_tokens`, separated by spaces; and the "
            "`attention`, with one line of weights for each target token. `tensors`: "
            f"`token_ids` (int32, {END} at the end; what follows is padding) → "
            "`token_ids` of the translation, padded with 0, `scores`. `errors` says "
            "what is wrong with each text, and is empty if nothing is. Texts of more "
            f"than {max_words(config.max_tokens)} words are translated in parts, each "
            "of at most `max_tokens` tokens."
        ),
        limits=LIMITS,
        config=config,
        files_setting="target_data",
        num_examples=datasets.sizes(splits),
        facts={
            "Differences": (
                "`changed translations` is the fraction of sentences whose translation "
                "differs from the trained model's."
            )
        },
    )
