"""Trains a detector: first the pyramid and the heads, then the backbone too.

python -m apps.object_detection train bccd
"""

from pathlib import Path
from typing import Any

import keras

from apps.common import backbones, baselines, datasets, figures, runs, schedules
from apps.common.predictors import as_predictor
from apps.object_detection import baseline
from apps.object_detection.config import Config
from apps.object_detection.data import load_examples, make_batches, print_boxes
from apps.object_detection.metrics import ValidationMap, best_confidence
from apps.object_detection.model import build_model
from apps.object_detection.signatures import Detector, load_model

MONITOR = "val_map"


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
    datasets.print_summary(config.data, splits, "image")
    print_boxes(splits)
    batches = make_batches(splits["train"], config, training=True)
    validation_batches = make_batches(splits["validation"], config)
    classes = splits["train"].classes
    with runs.dtype_policy(config.precision):
        model = build_model(
            num_classes=len(classes),
            model=config.model,
            backbone=config.backbone,
            weights=config.weights,
            filters=config.filters,
            num_bins=config.num_bins,
        )
    runs.start(config, run, splits.held_out)
    runs.write_json(run / "classes.json", classes)
    record = baseline.measure(model, splits, config, run)

    head, fine_tuning = schedules.limit_epochs(
        len(batches),
        config.max_steps,
        config.head_epochs if config.weights else 0,
        config.epochs,
    )
    detector = Detector(model, config.image_size, classes, config)
    predictor = as_predictor(detector.signatures["serving_default"])

    def fit(phase, learning_rate, first_epoch, length):
        compile_model(model, learning_rate, config.weight_decay)
        runs.fit(
            model,
            batches.take(length.steps_per_epoch),
            validation_batches,
            run,
            phase,
            monitor=MONITOR,
            mode="max",
            patience=config.patience,
            max_minutes=config.max_minutes,
            initial_epoch=first_epoch,
            epochs=first_epoch + length.epochs,
            total_epochs=head.epochs + fine_tuning.epochs,
            callbacks=[ValidationMap(predictor, splits["validation"])],
        )
        return first_epoch + length.epochs

    # Phase 1: train the pyramid and the heads on a frozen backbone.
    epoch = 0
    if head.epochs:
        backbones.set_trainable(model.get_layer("backbone"), fraction=0)
        epoch = fit("head", config.head_learning_rate, epoch, head)

    # Phase 2: train the backbone too.
    if config.weights:
        backbones.set_trainable(model.get_layer("backbone"), fraction=1)
    schedule = schedules.warm_up_and_decay(config.learning_rate, fine_tuning.steps)
    fit("fine_tuning", schedule, epoch, fine_tuning)

    confidence = best_confidence(load_model(str(run)), splits["validation"])
    runs.write_json(run / "confidence.json", {"confidence": confidence})
    figures.draw_curves(runs.read_history(run), run / "curves.png")
    summary = runs.finish(run, MONITOR, "max")
    baselines.print_verdict(
        record,
        "map",
        summary[MONITOR],
        "train more --epochs, add images, or enlarge --image-size",
    )
    return summary


def compile_model(model: keras.Model, learning_rate: Any, weight_decay: float) -> None:
    """Compiles the model with the optimizer of both phases; it has a loss itself."""
    model.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate, weight_decay=weight_decay, global_clipnorm=10.0
        ),
        jit_compile=False,  # On CPUs, XLA's convolutions are several times slower.
    )
