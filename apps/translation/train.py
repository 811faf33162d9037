"""Trains tokenizers, then an encoder and a decoder with attention over their pieces.

python -m apps.translation train multi30k_en_de
"""

from pathlib import Path

import keras

from apps.common import pictures, runs, schedules
from apps.common.errors import BadInput
from apps.translation.data import load_pairs, make_batches
from apps.translation.metrics import ValidationBleu
from apps.translation.model import (
    TOKENIZER_FILES,
    EncoderDecoder,
    load_tokenizers,
    make_translator,
    save_tokenizers,
)
from apps.translation.tokenizer import train_tokenizer


def train(config, run: Path):
    """Trains a model and leaves it in the run directory, as `runs` describes it.

    Args:
        config: A `Config`.
        run: The run directory; an interrupted training in it is continued.

    Returns:
        The summary of the training: best epoch, validation metrics and minutes.
    """
    if summary := runs.finished(config, run):
        return summary
    keras.utils.set_random_seed(config.seed)

    splits = load_pairs(config)
    tokenizers = find_tokenizers(splits["train"], config, run)
    if config.beam_size > len(tokenizers[1]):
        raise BadInput(
            f"--beam-size {config.beam_size} is more than the {len(tokenizers[1])} "
            "pieces of the vocabulary; make it smaller"
        )
    batches = make_batches(splits["train"], config, *tokenizers, training=True)
    validation_batches = make_batches(splits["validation"], config, *tokenizers)

    model = new_model(config, tokenizers)
    schedule = schedules.warm_up_and_decay(
        config.learning_rate, steps=len(batches) * config.epochs
    )
    model.compile(
        optimizer=keras.optimizers.Adam(schedule, clipnorm=config.gradient_norm),
        loss=SmoothedCrossEntropy(config.label_smoothing),
        jit_compile=False,  # On CPUs, XLA is slower.
    )
    translator = make_translator(model, tokenizers, config)
    callbacks = [ValidationBleu(translator, splits["validation"])]
    if config.teacher_forcing < 1:
        callbacks.append(TeacherForcing(config.teacher_forcing, config.epochs))

    runs.start(config, run)
    save_tokenizers(tokenizers, run)
    runs.fit(
        model,
        batches,
        validation_batches,
        run,
        phase="training",
        epochs=config.epochs,
        monitor="val_bleu",
        mode="max",
        patience=config.patience,
        callbacks=callbacks,
    )
    pictures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run, "val_bleu", "max")


def new_model(config, tokenizers):
    """Returns the untrained `EncoderDecoder` of a configuration.

    Args:
        config: A `Config`.
        tokenizers: The `Tokenizer`s of the sentences and of their translations.
    """
    source, target = map(len, tokenizers)
    model = EncoderDecoder(
        source,
        None if config.joint_vocabulary else target,
        config.embedding_size,
        config.encoder_units,
        config.decoder_units,
        config.attention,
        config.attention_units,
        config.embedding_dropout,
        config.dropout,
        scheduled=config.teacher_forcing < 1,
    )
    model([keras.ops.ones((1, 2), "int32")] * 2)  # Makes the weights, for a backup.
    return model


def find_tokenizers(pairs, config, run: Path):
    """Returns the tokenizers of a run that was begun, or learns them.

    Returns:
        Those of the sentences and of their translations; one and the same, if the
        vocabulary is joint.
    """
    files = TOKENIZER_FILES[: 1 if config.joint_vocabulary else 2]
    if all((run / name).exists() for name in files):
        return load_tokenizers(run)
    if config.joint_vocabulary:
        texts = [*pairs.sources, *pairs.targets]
        return [train_tokenizer(texts, config.vocabulary_size)] * 2
    return [
        train_tokenizer(texts, config.vocabulary_size)
        for texts in (pairs.sources, pairs.targets)
    ]


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits, each weighted piece counted alike.

    Args:
        label_smoothing: Share of each label that is spread over all pieces.
    """

    def __init__(self, label_smoothing):
        super().__init__("loss", reduction="mean_with_sample_weight")
        self.label_smoothing = label_smoothing

    def call(self, labels, logits):
        """Compares numbers of pieces, `(batch, steps)`, with the logits of all."""
        one_hot = keras.ops.one_hot(
            keras.ops.cast(labels, "int32"), logits.shape[-1], dtype=logits.dtype
        )
        return keras.losses.categorical_crossentropy(
            one_hot, logits, from_logits=True, label_smoothing=self.label_smoothing
        )


class TeacherForcing(keras.callbacks.Callback):
    """Lowers the share of pieces that the decoder is told from 1, along a line.

    Args:
        last: The share in the last epoch.
        epochs: The number of epochs.
    """

    def __init__(self, last, epochs):
        super().__init__()
        self.last = last
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the share of this epoch."""
        progress = epoch / max(1, self.epochs - 1)
        self.model.told.assign(1 - (1 - self.last) * progress)
