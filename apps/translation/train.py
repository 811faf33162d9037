"""Trains tokenizers, then an encoder-decoder with attention on their tokens.

python -m apps.translation train multi30k_en_de
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from apps.common import datasets, figures, runs, schedules
from apps.common.decoder import SmoothedCrossEntropy, TeacherForcing
from apps.common.errors import BadInput
from apps.common.predictors import as_predictor
from apps.common.tokenizer import Tokenizer, train_tokenizer
from apps.translation.config import Config
from apps.translation.data import Examples, load_examples, make_batches
from apps.translation.metrics import ValidationBleu
from apps.translation.model import EncoderDecoder
from apps.translation.signatures import (
    TOKENIZER_FILES,
    Translator,
    load_tokenizers,
    save_tokenizers,
)


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
    keras.utils.set_random_seed(config.seed)

    splits = load_examples(config, runs.read_held_out(run))
    datasets.print_summary(config.data, splits, "sentence")
    tokenizers = find_tokenizers(splits["train"], config, run)
    if config.beam_size > len(tokenizers[1]):
        raise BadInput(
            f"--beam-size {config.beam_size} is more than the {len(tokenizers[1])} "
            "tokens of the vocabulary; make it smaller"
        )
    batches = make_batches(splits["train"], config, tokenizers, training=True)
    validation_batches = make_batches(splits["validation"], config, tokenizers)

    model = make_model(config, tokenizers)
    (length,) = schedules.limit_epochs(len(batches), config.max_steps, config.epochs)
    compile_model(model, config, length.steps)
    greedy = Translator(model, tokenizers, config).signatures["greedy"]
    callbacks = [ValidationBleu(as_predictor(greedy), splits["validation"])]
    if config.teacher_forcing_rate < 1:
        callbacks.append(TeacherForcing(config.teacher_forcing_rate, length.epochs))

    runs.start(config, run, splits.held_out)
    save_tokenizers(tokenizers, run)
    runs.fit(
        model,
        batches.take(length.steps_per_epoch),
        validation_batches,
        run,
        phase="training",
        epochs=length.epochs,
        monitor="val_bleu",
        mode="max",
        patience=config.patience,
        max_minutes=config.max_minutes,
        callbacks=callbacks,
    )
    figures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run, "val_bleu", "max")


def make_model(config: Config, tokenizers: Sequence[Tokenizer]) -> EncoderDecoder:
    """Returns an untrained model.

    Args:
        config: The settings.
        tokenizers: The `Tokenizer`s of the source and of the target language.
    """
    source, target = tokenizers
    model = EncoderDecoder(
        source_vocabulary_size=len(source),
        target_vocabulary_size=None if config.joint_vocabulary else len(target),
        embedding_size=config.embedding_size,
        encoder_units=config.encoder_units,
        decoder_units=config.decoder_units,
        attention=config.attention,
        attention_units=config.attention_units,
        embedding_dropout=config.embedding_dropout,
        dropout=config.dropout,
        scheduled_sampling=config.teacher_forcing_rate < 1,
    )
    # A call creates the weights, so that a checkpoint can be loaded.
    model([keras.ops.ones((1, 2), "int32")] * 2)
    return model


def compile_model(model: EncoderDecoder, config: Config, steps: int) -> None:
    """Compiles a model with the optimizer and the loss for so many steps."""
    schedule = schedules.warm_up_and_decay(config.learning_rate, steps=steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule, clipnorm=config.gradient_norm),
        loss=SmoothedCrossEntropy(label_smoothing=config.label_smoothing),
        jit_compile=False,  # On CPUs, XLA is slower.
    )


def find_tokenizers(examples: Examples, config: Config, run: Path) -> list[Tokenizer]:
    """Returns the tokenizers of an interrupted training, or trains new ones.

    Returns:
        The tokenizers of the source and of the target language; the same one twice if
        the vocabulary is joint.
    """
    files = TOKENIZER_FILES[: 1 if config.joint_vocabulary else 2]
    if all((run / name).exists() for name in files):
        return load_tokenizers(run)
    if config.joint_vocabulary:
        texts = [*examples.sources, *examples.targets]
        return [train_tokenizer(texts, config.vocabulary_size)] * 2
    return [
        train_tokenizer(texts, config.vocabulary_size)
        for texts in (examples.sources, examples.targets)
    ]
