"""Trains a recognizer by CTC, or with an attention decoder too.

python -m apps.speech_recognition train morse
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import keras
import numpy as np

from apps.common import baselines, datasets, figures, runs, schedules
from apps.speech_recognition import baseline
from apps.speech_recognition.config import Config
from apps.speech_recognition.data import (
    Examples,
    load_examples,
    load_split,
    make_batches,
    read_speakers,
)
from apps.speech_recognition.metrics import ValidationErrors, make_scorer
from apps.speech_recognition.model import Recognizer
from apps.speech_recognition.tokenizer import (
    FILE,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
)
from apps.speech_recognition.words import FILE as WORDS_FILE
from apps.speech_recognition.words import load_word_list

MONITOR = "val_cer"
MAX_UNKNOWN_SHOWN = 10


def train(config: Config, run: Path) -> dict[str, Any]:
    """Trains a model into a run directory; resumes an interrupted training there.

    Args:
        config: The settings.
        run: The run directory, as described in `runs`.

    Returns:
        The summary of `runs.finish`.
    """
    if summary := runs.finished(config, run):
        return summary
    if config.leave_one_speaker_out:
        train_without_each_speaker(config, run)
    keras.utils.set_random_seed(config.seed)

    splits = load_examples(config, runs.read_held_out(run))
    datasets.print_summary(config.data, splits, "recording")
    if (run / FILE).exists():
        tokenizer = load_tokenizer(run)
    else:
        tokenizer = make_tokenizer(splits["train"].texts, config)
    print_unknown(tokenizer, splits)
    batches = make_batches(splits["train"], config, tokenizer, training=True)
    validation_batches = make_batches(splits["validation"], config, tokenizer)

    model = make_model(config, len(tokenizer))
    (length,) = schedules.limit_epochs(
        len(batches), config.max_steps, config.epochs, min_steps=config.min_steps
    )
    short_batches = make_batches(
        shorter_half(splits["train"]), config, tokenizer, training=True
    )
    short_batches = short_batches.take(length.steps_per_epoch)
    short_epochs = min(config.short_epochs, length.epochs)
    short_steps = short_epochs * len(short_batches)
    compile_model(model, config, short_steps + length.steps)
    word_list = load_word_list(splits["train"].texts, tokenizer, config)
    runs.start(config, run, splits.held_out)
    save_tokenizer(tokenizer, run)
    if word_list:
        np.savez_compressed(run / WORDS_FILE, **word_list._asdict())
    record = baseline.measure(model, splits, run)
    last_epoch = short_epochs + length.epochs

    def fit(phase, batches, first_epoch, epochs, patience):
        runs.fit(
            model,
            batches,
            validation_batches,
            run,
            phase,
            initial_epoch=first_epoch,
            epochs=first_epoch + epochs,
            total_epochs=last_epoch,
            monitor=MONITOR,
            mode="min",
            patience=patience,
            max_minutes=config.max_minutes,
            callbacks=[ValidationErrors(validation_batches, tokenizer)],
        )

    if short_epochs:
        fit("short", short_batches, 0, short_epochs, None)
    batches = batches.repeat().take(length.steps_per_epoch)
    fit("all", batches, short_epochs, length.epochs, config.patience)
    figures.draw_curves(runs.read_history(run), run / "curves.png")
    summary = runs.finish(run, MONITOR, "min")
    baselines.print_verdict(
        record,
        "wer",
        summary["val_wer"],
        "train more --epochs, or add recordings",
        higher_is_better=False,
    )
    return summary


def train_without_each_speaker(config: Config, run: Path) -> None:
    """Trains without each speaker in turn, and prints how that speaker is recognized.

    The mean over the speakers estimates the scores for a new one. The models are kept
    in a folder of the run, and the scores in `new_speakers.json`.

    Args:
        config: The settings.
        run: The run directory of the model with all speakers.
    """
    scores = {}
    for speaker in read_speakers(config):
        print(f"without {speaker}:")
        settings = replace(config, leave_one_speaker_out=False, test_speaker=speaker)
        folder = run / "without" / quote(speaker, safe="")
        train(settings, folder)
        network = keras.saving.load_model(folder / "model.keras", compile=False)
        tokenizer = load_tokenizer(folder)
        batches = make_batches(load_split(settings, "test"), settings, tokenizer)
        scores[speaker] = make_scorer(network, batches, tokenizer)()
    runs.write_json(run / "new_speakers.json", scores)
    width = max(map(len, ["new speaker", *scores]))
    names = ("wer", "cer", "accuracy")
    print(f"{'new speaker':{width}}      WER      CER    exact")
    for speaker, row in scores.items():
        print(f"{speaker:{width}}" + "".join(f"{row[name]:9.4f}" for name in names))
    table = np.array([[row[name] for name in names] for row in scores.values()])
    for name, row in (("mean", table.mean(axis=0)), ("std. dev.", table.std(axis=0))):
        print(f"{name:{width}}" + "".join(f"{value:9.4f}" for value in row))


def shorter_half(examples: Examples) -> Examples:
    """Returns the shorter half of some recordings, which CTC learns first."""
    order = np.argsort([len(each) for each in examples.waveforms], kind="stable")
    return datasets.take(examples, order[: -(-len(order) // 2)])


def print_unknown(tokenizer, splits):
    """Prints the characters or words that only other texts than the training's have."""
    for split in ("validation", "test"):
        unknown = set().union(*map(tokenizer.unknown, splits[split].texts))
        if unknown:
            print(
                f"never written, because no training text has them, but in the texts "
                f"for {split}: {', '.join(sorted(unknown)[:MAX_UNKNOWN_SHOWN])}",
                file=sys.stderr,
            )


def make_model(config: Config, num_tokens: int) -> Recognizer:
    """Returns an untrained model."""
    model = Recognizer(
        num_tokens=num_tokens,
        sampling_rate=config.sampling_rate,
        num_mels=config.num_mels,
        subsampling=config.subsampling,
        filters=config.filters,
        units=config.units,
        num_layers=config.num_layers,
        dropout=config.dropout,
        streaming=config.streaming,
        num_time_masks=config.time_masks,
        num_frequency_masks=config.frequency_masks,
        decoder=config.decoder,
        decoder_units=config.decoder_units,
        ctc_weight=config.ctc_weight,
        label_smoothing=config.label_smoothing,
    )
    model.build()  # So that a checkpoint can be loaded.
    return model


def compile_model(model: Recognizer, config: Config, steps: int) -> None:
    """Compiles a model, which has a loss itself, for so many steps."""
    schedule = schedules.warm_up_and_decay(config.learning_rate, steps=steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule, global_clipnorm=config.gradient_norm),
        jit_compile=False,  # On CPUs, XLA is slower.
    )
