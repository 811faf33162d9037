"""Trains a tokenizer, then a network and a linear model on its tokens.

python -m apps.sentiment_analysis train tweets
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax
from sklearn.metrics import accuracy_score, recall_score

from apps.common import baselines, datasets, figures, runs, schedules
from apps.sentiment_analysis import linear
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_examples, make_batches
from apps.sentiment_analysis.metrics import MacroRecall
from apps.sentiment_analysis.mixture import choose_mixture
from apps.sentiment_analysis.model import branches, build_model, scale_branches
from apps.sentiment_analysis.tokenizer import Tokenizer, train_tokenizer
from apps.sentiment_analysis.word_vectors import initial_embedding

MONITOR = "val_macro_recall"
MAX_BASELINE_TEXTS = 50_000
NO_WORD_VECTORS = (
    "no word vectors: words start from random vectors; --word-vectors FILE starts them "
    "from vectors learned from billions of words, such as GloVe's, "
    "https://nlp.stanford.edu/projects/glove (macro recall of the preset tweets: 0.640 "
    "with them, 0.616 without)"
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
    datasets.print_summary(config.data, splits, "text")
    class_names = splits["train"].class_names
    tokenizer = find_tokenizer(splits["train"].texts, config, run)
    weights = class_weights(splits["train"].labels, class_names, config)
    batches = make_batches(splits["train"], config, tokenizer, weights, training=True)
    validation_batches = make_batches(splits["validation"], config, tokenizer, weights)

    num_buckets = 0
    if config.linear_branch:
        token_ids = tokenizer(tf.constant(splits["train"].texts))
        num_buckets = linear.choose_num_buckets(token_ids, config.max_pairs)
    model = build_model(
        vocabulary_size=len(tokenizer),
        num_classes=len(class_names),
        embedding_size=config.embedding_size,
        units=config.units,
        attention_units=config.attention_units,
        embedding_dropout=config.embedding_dropout,
        dropout=config.dropout,
        num_buckets=num_buckets,
        has_padding=True,
    )
    embedding, num_known = initial_embedding(
        tokenizer.vocabulary(), config.embedding_size, config.word_vectors, config.seed
    )
    if config.word_vectors:
        print(f"{num_known} of {len(tokenizer)} tokens start from word vectors")
    else:
        print(NO_WORD_VECTORS)
    model.get_layer("embedding").set_weights([embedding])

    (length,) = schedules.limit_epochs(len(batches), config.max_steps, config.epochs)
    schedule = schedules.warm_up_and_decay(config.learning_rate, length.steps)
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
    baseline = measure_baseline(splits, config, run)
    runs.fit(
        model,
        batches.take(length.steps_per_epoch),
        validation_batches,
        run,
        phase="training",
        epochs=length.epochs,
        monitor=MONITOR,
        mode="max",
        patience=config.patience,
        max_minutes=config.max_minutes,
    )
    figures.draw_curves(runs.read_history(run), run / "curves.png")
    scores = None
    if config.linear_branch:
        scores = add_linear_branch(splits, validation_batches, tokenizer, config, run)
    summary = runs.finish(run, MONITOR, "max", scores)
    (run / "network.keras").unlink(missing_ok=True)
    baselines.print_verdict(
        baseline,
        "macro_recall",
        summary["val_macro_recall"],
        "add texts, pass --word-vectors, or try another --learning-rate or --dropout",
    )
    return summary


def measure_baseline(splits, config, run):
    """Returns the record of `baselines.measure`.

    Of very many training texts the baseline sees some, so that it takes seconds.
    """
    train = splits["train"]
    order = np.random.default_rng(config.seed).permutation(len(train))
    chosen = order[:MAX_BASELINE_TEXTS]
    inputs = {name: (split.texts, split.labels) for name, split in splits.items()}
    inputs["train"] = ([train.texts[i] for i in chosen], train.labels[chosen])
    return baselines.measure(
        run,
        "TF-IDF with a linear SVM",
        baselines.of_texts(config.class_weights),
        inputs,
    )


def add_linear_branch(splits, validation_batches, tokenizer, config, run):
    """Fits the linear branch of the best network and mixes both in `model.keras`.

    The validation texts choose the mixture. Then the linear branch, which has no epochs
    to choose, learns from them too.

    Args:
        splits: The `Examples` by split.
        validation_batches: Batches of the validation texts.
        tokenizer: The `Tokenizer`.
        config: The settings.
        run: The run directory.

    Returns:
        The validation metrics of the mixture, before the linear branch has seen the
        validation texts.
    """
    # The network alone keeps a file until the end, from which a killed run goes on.
    network = run / "network.keras"
    if not network.exists():
        with runs.replacing(network) as unfinished:
            shutil.copyfile(run / "model.keras", unfinished)
    model = keras.saving.load_model(network)
    train, validation = splits["train"], splits["validation"]
    layer = model.get_layer("linear")
    strength = linear.fit(
        layer,
        tokenizer(tf.constant(train.texts)),
        train.labels,
        class_weights(train.labels, train.class_names, config),
    )

    logits_model = branches(model)
    parts = []
    for token_ids, one_hot, weights in validation_batches:
        logits = logits_model.predict_on_batch(token_ids)
        parts.append((logits["network"], logits["linear"], one_hot.numpy(), weights))
    network_logits, linear_logits, one_hot, weights = map(
        np.concatenate, zip(*parts, strict=True)
    )
    labels = one_hot.argmax(axis=1)
    mixture = choose_mixture(network_logits, linear_logits, labels, weights)
    print(
        f"mixture: {mixture.network:.0%} network, {1 - mixture.network:.0%} linear "
        "branch"
    )
    scores = softmax(mixture.logits(network_logits, linear_logits), axis=1)

    labels_of_both = np.concatenate([train.labels, validation.labels])
    linear.fit(
        layer,
        tokenizer(tf.constant(train.texts + validation.texts)),
        labels_of_both,
        class_weights(labels_of_both, train.class_names, config),
        strength,
    )
    scale_branches(
        model,
        network=mixture.network / mixture.temperature,
        linear=(1 - mixture.network) / mixture.temperature,
    )
    with runs.replacing(run / "model.keras") as unfinished:
        model.save(unfinished)
    predictions = scores.argmax(axis=1)
    losses = -np.log(scores[np.arange(len(labels)), labels])
    return {
        "val_macro_recall": recall_score(
            labels, predictions, labels=np.unique(labels), average="macro"
        ),
        "val_accuracy": accuracy_score(labels, predictions),
        "val_loss": float(np.average(losses, weights=weights)),
    }


def class_weights(labels, class_names, config):
    """Returns the weight of a text of each class, `(classes,)`."""
    if config.class_weights:
        return datasets.balanced_weights(labels, len(class_names))
    return np.ones(len(class_names))


def find_tokenizer(texts: Iterable[str], config: Config, run: Path) -> Tokenizer:
    """Returns the tokenizer of an interrupted training, or trains a new one."""
    path = run / "tokenizer.model"
    if path.exists():
        return Tokenizer(path.read_bytes())
    return train_tokenizer(texts, config.vocabulary_size)
