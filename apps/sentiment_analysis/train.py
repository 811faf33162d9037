"""Trains a tokenizer, then an LSTM with attention on its tokens.

python -m apps.sentiment_analysis train tweets
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from apps.common import datasets, figures, runs, schedules
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_examples, make_batches
from apps.sentiment_analysis.metrics import MacroRecall
from apps.sentiment_analysis.model import build_model
from apps.sentiment_analysis.tokenizer import Tokenizer, train_tokenizer
from apps.sentiment_analysis.word_vectors import initial_embedding


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
    class_names = splits["train"].class_names
    tokenizer = find_tokenizer(splits["train"].texts, config, run)
    weights = np.ones(len(class_names))
    if config.class_weights:
        weights = datasets.balanced_weights(splits["train"].labels, len(class_names))
    batches = make_batches(splits["train"], config, tokenizer, weights, training=True)
    validation_batches = make_batches(splits["validation"], config, tokenizer, weights)

    model = build_model(
        vocabulary_size=len(tokenizer),
        num_classes=len(class_names),
        embedding_size=config.embedding_size,
        units=config.units,
        attention_units=config.attention_units,
        embedding_dropout=config.embedding_dropout,
        dropout=config.dropout,
        has_padding=True,
    )
    embedding, num_known = initial_embedding(
        tokenizer.vocabulary(), config.embedding_size, config.word_vectors, config.seed
    )
    if config.word_vectors:
        print(f"{num_known} of {len(tokenizer)} tokens start from word vectors")
    model.get_layer("embedding").set_weights([embedding])

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

    runs.start(config, run, splits.held_out)
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
    figures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run, "val_macro_recall", "max")


def find_tokenizer(texts: Iterable[str], config: Config, run: Path) -> Tokenizer:
    """Returns the tokenizer of an interrupted training, or trains a new one."""
    path = run / "tokenizer.model"
    if path.exists():
        return Tokenizer(path.read_bytes())
    return train_tokenizer(texts, config.vocabulary_size)
