"""Exports a translator for TensorFlow Serving and for devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.translation import edge, metrics
from apps.translation.config import Config
from apps.translation.data import load_examples
from apps.translation.evaluate import score
from apps.translation.model import Memory, State
from apps.translation.parts import max_words
from apps.translation.signatures import (
    LIMITS,
    load_model,
    load_run,
    save_tokenizers,
)
from apps.translation.tokenizer import END

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
        "sentencepiece>=0.2",
        translator.model.weights,
        device_signatures(translator),
        write_files=write_files,
    )


def device_signatures(translator):
    """Returns the functions that a device calls, for one sentence at a time.

    Returns:
        `encode`: from `token_ids`, `(1, source_steps)`, to the encoded sentence and the
        initial state of the decoder. `decode`: from these and the last `token_ids`,
        `(1, beams)`, to the next state, the most probable next `token_ids` and their
        `log_probs`, `(1, beams, candidates)`, and `attention`,
        `(1, beams, source_steps)`.
    """
    model = translator.model

    def encode(token_ids):
        memory = model.encode(token_ids, has_padding=False)
        state = model.initial_state(memory)
        return {
            **{name: value[:, None] for name, value in state._asdict().items()},
            **{name: getattr(memory, name) for name in ("values", "keys", "summary")},
        }

    def decode(token_ids, h, c, readout, values, keys, summary):
        state, memory = State(h, c, readout), Memory(values, keys, summary, None)
        log_probs, state, attention = translator.step(token_ids, state, memory)
        log_probs, token_ids = tf.math.top_k(log_probs, translator.beam_size)
        return {
            **state._asdict(),
            "log_probs": log_probs,
            "token_ids": token_ids,
            "attention": attention,
        }

    token_ids = tf.TensorSpec([1, None], tf.int32, name="token_ids")
    encode = tf.function(encode, input_signature=[token_ids])
    encoded = encode.get_concrete_function().structured_outputs
    # All but `summary` have a variable number of beams or of source steps.
    inputs = [
        tf.TensorSpec([1, None, *value.shape[2:]], name=name)
        if len(value.shape) > 2
        else tf.TensorSpec(value.shape, name=name)
        for name, value in encoded.items()
    ]
    decode = tf.function(decode, input_signature=[token_ids, *inputs])
    return {"encode": encode, "decode": decode}


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
