"""Trains a classifier: first a linear head on frozen features, then the backbone too.

python -m apps.image_classification train flowers
"""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy import stats

from apps.common import (
    backbones,
    baselines,
    classification,
    datasets,
    figures,
    runs,
    schedules,
)
from apps.image_classification import linear_head
from apps.image_classification.config import Config
from apps.image_classification.data import load_examples, make_batches
from apps.image_classification.model import build_model

MONITOR = "val_log_loss"
SIGNIFICANCE = 0.05  # Of the test by which fine-tuning must be better than the head.


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
    start = time.perf_counter()
    keras.utils.set_random_seed(config.seed)

    splits = load_examples(config, runs.read_held_out(run))
    datasets.print_summary(config.data, splits, "image")
    class_names = splits["train"].class_names
    config = linear_head.choose(runs.with_choices(config, run), splits["train"])
    with runs.dtype_policy(config.precision):
        model = build_model(
            num_classes=len(class_names),
            image_size=config.image_size,
            backbone=config.backbone,
            backbone_output=config.backbone_output,
            weights=config.weights,
            dropout=config.dropout,
        )
    runs.start(config, run, splits.held_out)
    runs.write_json(run / "classes.json", class_names)

    features = linear_head.load_features(model, splits, config, run)
    baseline = baselines.measure(
        run,
        f"logistic regression on {'frozen features' if config.weights else 'pixels'}",
        baselines.of_features(),
        {split: (views[:, 0], labels) for split, (views, labels) in features.items()},
    )

    # Phase 1: a linear head on the frozen backbone.
    compile_model(model, config, config.learning_rate)
    head_epochs = 0
    if config.weights:
        views, labels = features["train"]
        head = linear_head.fit(views, labels, config.class_weights)
        set_head(model, head)
        head_epochs = 1
        if not runs.read_history(run):
            logs = linear_head.evaluate(model, features)
            logs["seconds"] = time.perf_counter() - start
            runs.record_epoch(model, run, 0, logs)
    initial_weights = model.get_weights()

    # Phase 2: fine-tune the backbone too, slowly, so that it keeps its features.
    last_epoch = fine_tune(model, splits, config, run, head_epochs)

    # What is kept: the head, an epoch of fine-tuning, or the average.
    if config.weights and config.epochs:
        average(model, initial_weights, splits["validation"], config, run, last_epoch)
    history = runs.read_history(run)
    best_epoch = runs.best_epoch(history, MONITOR, "min")["epoch"]
    kept = {}
    if config.weights and (
        best_epoch == 0
        or not beats_head(head, features, splits["validation"], config, run)
    ):
        model.set_weights(initial_weights)
        keep_head(model, features, config, run)
        scores = {k: v for k, v in history[0].items() if k.startswith("val_")}
        kept = {"best_epoch": 1, **scores}
    elif config.weights and best_epoch == last_epoch:
        print("the average of the linear head and the fine-tuned model is kept")
    figures.draw_curves(history, run / "curves.png")
    summary = runs.finish(run, MONITOR, scores=kept)
    baselines.print_verdict(
        baseline,
        "accuracy",
        summary["val_accuracy"],
        "add images, train more --epochs, or try another --learning-rate",
    )
    return summary


def fine_tune(model, splits, config, run, head_epochs):
    """Trains the whole model, except for the first layers of a pretrained backbone.

    Args:
        model: The model from `build_model`.
        splits: The `Examples` by split.
        config: The settings.
        run: The run directory.
        head_epochs: The number of epochs before.

    Returns:
        The number of epochs after it.
    """
    batches = make_batches(splits["train"], config, training=True)
    (length,) = schedules.limit_epochs(len(batches), config.max_steps, config.epochs)
    last_epoch = head_epochs + length.epochs
    if config.weights:
        backbones.set_trainable(model.get_layer("backbone"), config.fine_tune_fraction)
    schedule = schedules.warm_up_and_decay(config.learning_rate, length.steps)
    compile_model(model, config, schedule)
    class_weight = None
    if config.class_weights:
        train = splits["train"]
        weights = datasets.balanced_weights(train.labels, len(train.class_names))
        class_weight = dict(enumerate(weights))
    runs.fit(
        model,
        batches.take(length.steps_per_epoch),
        make_batches(splits["validation"], config),
        run,
        phase="fine_tuning",
        initial_epoch=head_epochs,
        epochs=last_epoch,
        monitor=MONITOR,
        patience=config.patience,
        max_minutes=config.max_minutes,
        class_weight=class_weight,
    )
    return last_epoch


def average(model, initial_weights, validation_examples, config, run, epoch):
    """Records the mean of the weights before and after fine-tuning as an epoch.

    It is often better than both.

    Args:
        model: The fine-tuned model; its weights become the mean.
        initial_weights: The weights before.
        validation_examples: The `Examples` to score it on.
        config: The settings.
        run: The run directory.
        epoch: The number of the epoch.

    Reference:
        [Wortsman et al., 2022](https://arxiv.org/abs/2109.01903)
    """
    start = time.perf_counter()
    pairs = zip(initial_weights, model.get_weights(), strict=True)
    model.set_weights([(before + after) / 2 for before, after in pairs])
    batches = make_batches(validation_examples, config)
    values = model.evaluate(batches, verbose=0, return_dict=True)
    logs = {f"val_{name}": value for name, value in values.items()}
    logs["seconds"] = time.perf_counter() - start
    best = runs.best_epoch(runs.read_history(run, before=epoch), MONITOR, "min")
    runs.record_epoch(model, run, epoch, logs, logs[MONITOR] < best[MONITOR])


def beats_head(head, features, validation_examples, config, run):
    """Returns whether the best model of the run is clearly better than the head.

    Few images cannot tell models apart, and the head can learn from the validation
    images too. So a one-sided t-test of the log losses must reject that the head is as
    good.

    Args:
        head: The logistic regression on the features of the training images.
        features: From `linear_head.load_features`.
        validation_examples: The `Examples` for validation.
        config: The settings.
        run: The run directory.
    """
    views, labels = features["validation"]
    some = linear_head.draw(validation_examples, linear_head.MAX_EXAMPLES, config.seed)
    model = keras.saving.load_model(run / "model.keras", compile=False)
    scores = model.predict(make_batches(some, config), verbose=0)
    gains = linear_head.log_losses(head.predict_proba(views[:, 0]), labels)
    gains -= linear_head.log_losses(scores, labels)
    test = stats.ttest_1samp(gains, 0, alternative="greater")
    return test.pvalue < SIGNIFICANCE


def keep_head(model, features, config, run):
    """Fits the linear head once more, on the training and the validation images.

    It has no epochs to choose, so that it can learn from both.

    Args:
        model: The model, with its pretrained backbone.
        features: From `linear_head.load_features`.
        config: The settings.
        run: The run directory; `model.keras` becomes this model.
    """
    parts = [features["train"], features["validation"]]
    views, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    set_head(model, linear_head.fit(views, labels, config.class_weights))
    with runs.replacing(run / "model.keras") as unfinished:
        model.save(unfinished)
    print(
        "the linear head is kept: fine-tuning was not clearly better on validation "
        "images"
    )


def set_head(model, regression):
    """Gives the model the head that `linear_head.fit` returns."""
    weights = classification.softmax_weights(regression)
    model.get_layer("scores").set_weights(weights)


def compile_model(model, config, learning_rate):
    """Compiles the model with the optimizer, the loss and the metrics."""
    model.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate, weight_decay=config.weight_decay
        ),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=config.label_smoothing
        ),
        metrics=["accuracy", linear_head.log_loss()],
        jit_compile=False,  # On CPUs, XLA's convolutions are several times slower.
    )
