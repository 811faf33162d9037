"""Trains a classifier in two phases: first the head, then the backbone too.

python -m apps.image_classification train flowers
"""

from pathlib import Path
from typing import Any

import keras

from apps.common import backbones, datasets, figures, runs, schedules
from apps.image_classification.config import Config
from apps.image_classification.data import load_examples, make_batches
from apps.image_classification.model import build_model


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
    batches = make_batches(splits["train"], config, training=True)
    validation_batches = make_batches(splits["validation"], config)
    class_names = splits["train"].class_names
    class_weight = None
    if config.class_weights:
        labels = splits["train"].labels
        weights = datasets.balanced_weights(labels, len(class_names))
        class_weight = dict(enumerate(weights))

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

    # Phase 1: train the head on a frozen backbone.
    head_epochs = config.head_epochs if config.weights else 0
    if head_epochs:
        backbones.set_trainable(model.get_layer("backbone"), fraction=0)
        compile_model(model, config, config.head_learning_rate)
        runs.fit(
            model,
            batches,
            validation_batches,
            run,
            phase="head",
            epochs=head_epochs,
            patience=config.patience,
            class_weight=class_weight,
        )

    # Phase 2: fine-tune the backbone too, slowly, so that it keeps its features.
    if config.weights:
        backbones.set_trainable(model.get_layer("backbone"), config.fine_tune_fraction)
    schedule = schedules.warm_up_and_decay(
        config.learning_rate, steps=len(batches) * config.epochs
    )
    compile_model(model, config, schedule)
    runs.fit(
        model,
        batches,
        validation_batches,
        run,
        phase="fine_tuning",
        initial_epoch=head_epochs,
        epochs=head_epochs + config.epochs,
        patience=config.patience,
        class_weight=class_weight,
    )
    figures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run)


def compile_model(model, config, learning_rate):
    """Compiles the model with the optimizer, loss and metric of both phases."""
    model.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate, weight_decay=config.weight_decay
        ),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=config.label_smoothing
        ),
        metrics=["accuracy"],
        jit_compile=False,  # On CPUs, XLA's convolutions are several times slower.
    )
