"""Exports a recognizer for TensorFlow Serving and for devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, runs
from apps.common.audio import encode_wav
from apps.common.decoder import device_signatures
from apps.common.release import Bundle, Card, Exam, Served, release
from apps.speech_recognition import edge, metrics, words
from apps.speech_recognition.config import Config
from apps.speech_recognition.data import load_examples
from apps.speech_recognition.evaluate import score
from apps.speech_recognition.search import attention_beam_size
from apps.speech_recognition.signatures import (
    LIMITS,
    MAX_SECONDS,
    QUIETEST,
    load_model,
    load_run,
)
from apps.speech_recognition.tokenizer import save_tokenizer

# Bound: the fraction of recordings whose transcript may differ from the trained
# model's.
MAX_CHANGED_TRANSCRIPTS = 0.02


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
    transcriber = load_run(run)
    splits = load_examples(config, runs.read_held_out(run))
    return release(
        run,
        to,
        variants,
        served(transcriber),
        bundle(transcriber),
        exam(splits["test"], config.sampling_rate),
        card(config, transcriber, splits),
        replace,
    )


def served(transcriber):
    """Returns what TensorFlow Serving gets."""
    rate = transcriber.config.sampling_rate
    second = np.zeros(rate, "float32")
    return Served(
        transcriber.signatures,
        transcriber.variables,
        warm_up={
            "serving_default": [encode_wav(second, rate)],
            "greedy": [encode_wav(second, rate)],
            "tensors": second[None],
        },
        half=True,
    )


def bundle(transcriber):
    """Returns what a device gets."""
    network, config = transcriber.network, transcriber.config
    settings = {
        "sampling_rate": config.sampling_rate,
        "max_seconds": MAX_SECONDS,
        "quietest": QUIETEST,
        "frame_seconds": network.subsampling / 100,
        "beam": {"beam_size": config.beam_size},
    }
    if network.decoder:
        settings["beam"] = {"beam_size": attention_beam_size(network, config)}
    else:
        settings["beam"] |= {
            "language_weight": config.language_weight,
            "word_bonus": config.word_bonus,
        }
    if config.streaming:
        settings["chunk_samples"] = network.chunk_samples

    def write_files(folder):
        save_tokenizer(transcriber.tokenizer, folder)
        runs.write_json(folder / "search.json", settings)
        if transcriber.word_list:
            np.savez_compressed(folder / words.FILE, **transcriber.word_list._asdict())

    return Bundle(
        edge.__file__,
        [],
        network.variables,
        device_functions(network, settings["beam"]["beam_size"]),
        write_files=write_files,
    )


def device_functions(network, beam_size):
    """Returns the functions that a device calls, for one recording at a time.

    Without padding, so that the LSTMs are fused operations.

    Args:
        network: A `Recognizer`.
        beam_size: Number of candidates of each step of the attention decoder.

    Returns:
        With CTC a function from `samples`, `(1, samples)`, to `log_probs`,
        `(1, frames, tokens)`. A streaming one has the context of `Recognizer.listen` as
        further inputs and outputs. With attention those of `device_signatures`.
    """
    samples = tf.TensorSpec([1, None], name="samples")
    if network.decoder:
        return device_signatures(
            lambda samples: network.remember(network.encode(samples)),
            samples,
            network.decoder,
            0.0,
            beam_size,
        )

    def answer(encoded, **context):
        log_probs = tf.nn.log_softmax(network.classify(encoded))
        return {"log_probs": log_probs, **context}

    if not network.arguments["streaming"]:
        function = tf.function(
            lambda samples: answer(network.encode(samples)), input_signature=[samples]
        )
        return {"serving_default": function}

    names = ("past_samples", "past_frames_1", "past_frames_2")

    def listen(samples, *context):
        encoded, context = network.listen(samples, *context)
        return answer(encoded, **dict(zip(names, context, strict=True)))

    specs = [
        tf.TensorSpec(value.shape, name=name)
        for name, value in zip(names, network.first_context(), strict=True)
    ]
    return {"serving_default": tf.function(listen, input_signature=[samples, *specs])}


def exam(test_examples, rate):
    """Returns how engines are measured."""
    seconds = sum(map(len, test_examples.waveforms)) / rate

    def measure(predictor, reference):
        found = score(predictor, test_examples, rate)
        transcripts = found.transcripts
        reference = reference or transcripts
        scores = metrics.error_rates(test_examples.texts, transcripts)
        pairs = zip(transcripts, reference, strict=True)
        changed = float(np.mean([ours != theirs for ours, theirs in pairs]))
        return {
            "wer": round(scores["wer"], 4),
            "cer": round(scores["cer"], 4),
            "accuracy": round(scores["accuracy"], 4),
            "changed_transcripts": round(changed, 4),
            "real_time_factor": round(found.seconds / seconds, 4),
        }, transcripts

    return Exam(
        load_model,
        measure,
        encode_wav(test_examples.waveforms[0], rate),
        difference="changed_transcripts",
        bounds=dict.fromkeys(("SavedModel", "float32"), MAX_CHANGED_TRANSCRIPTS),
        metric="changed_transcripts",
        max_loss=MAX_CHANGED_TRANSCRIPTS,
        higher_is_better=False,
    )


def card(config, transcriber, splits):
    """Returns the texts of the model card."""
    direction = "" if config.streaming else "bidirectional "
    decoder = "trained by CTC"
    if config.decoder == "attention":
        decoder = f"an LSTM decoder of {config.decoder_units} units with attention"
    return Card(
        name=f"Speech recognition: {Path(config.data).parent.name or config.data}",
        description=(
            f"{config.num_layers} {direction}LSTMs of {config.units} units on a "
            f"log-mel spectrogram of {config.num_mels} bands at "
            f"{config.sampling_rate} hertz; {decoder}; "
            f"{len(transcriber.tokenizer) - 1} {config.token} tokens, "
            f"{config.beam_size} beams."
        ),
        unit="recordings",
        recommendation=(
            f"that changes at most {100 * MAX_CHANGED_TRANSCRIPTS:.0f} % more "
            "transcripts than the SavedModel"
        ),
        signatures=(
            "`serving_default`: `audio_bytes` (WAV, PCM or floats, any usual sampling "
            "rate, mono or more channels) → `transcripts`; `scores`, their "
            "log-probabilities; `word_times`, with a line for each word: its start and "
            "its end in seconds, and the word. `greedy`: the same without a search. "
            "`tensors`: `samples` (float32 from -1 to 1, at the sampling rate of the "
            "model) → the same. `errors` says what is wrong with each recording, and "
            "is empty if nothing is."
        ),
        limits=LIMITS,
        config=config,
        files_setting="word_list",
        num_examples=datasets.sizes(splits),
        facts={
            "Differences": (
                "`changed transcripts` is the fraction of recordings whose transcript "
                "differs from the trained model's. `real time factor` is the time to "
                "transcribe a recording divided by its length."
            )
        },
    )
