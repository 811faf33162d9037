"""Trains a tokenizer, then an LSTM with attention over its pieces.

python -m apps.sentiment_analysis train tweets
"""

from pathlib import Path

import keras
import numpy as np

from apps.common import datasets, pictures, runs, schedules
from apps.sentiment_analysis.data import load_examples, make_batches
from apps.sentiment_analysis.metrics import MacroRecall
from apps.sentiment_analysis.model import build_model, initial_embedding
from apps.sentiment_analysis.tokenizer import Tokenizer, train_tokenizer


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

    splits, class_names = load_examples(config)
    tokenizer = find_tokenizer(splits["train"].texts, config, run)
    vectors, known = initial_embedding(
        tokenizer.vocabulary(), config.embedding_size, config.word_vectors, config.seed
    )
    if config.word_vectors:
        print(f"{known} of {len(tokenizer)} pieces start from word vectors")
    weights = np.ones(len(class_names))
    if config.class_weights:
        weights = datasets.balanced_weights(splits["train"].labels, len(class_names))
    batches = make_batches(splits["train"], config, tokenizer, weights, training=True)
    validation_batches = make_batches(splits["validation"], config, tokenizer, weights)

    model = build_model(
        len(tokenizer),
        len(class_names),
        config.embedding_size,
        config.units,
        config.attention_units,
        config.embedding_dropout,
        config.dropout,
    )
    model.get_layer("embedding").set_weights([vectors])
    schedule = schedules.warm_up_and_decay(
        config.learning_rate, steps=len(batches) * config.epochs
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(
            schedule, weight_decay=config.weight_decay, clipnorm=1.0
        ),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=config.label_smoothing
        ),
        metrics=["accuracy", MacroRecall(len(class_names))],
        jit_compile=False,  # On CPUs, XLA is slower.
    )

    runs.start(config, run)
    runs.write_json(run / "classes.json", class_names)
    runs.write_bytes(run / "tokenizer.model", tokenizer.model)
    runs.fit(
        model,
        batches,
        validation_batches,
        run,
        phase="training",
        epochs=config.epochs,
        monitor="val_macro_recall",
        mode="max",
        patience=config.patience,
    )
    pictures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run, "val_macro_recall", "max")


def find_tokenizer(texts, config, run: Path):
    """Returns the tokenizer of a run that was begun, or learns one."""
    path = run / "tokenizer.model"
    if path.exists():
        return Tokenizer(path.read_bytes())
    return train_tokenizer(texts, config.vocabulary_size)
