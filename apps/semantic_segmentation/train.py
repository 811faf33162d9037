"""Trains a segmenter: first the decoder, then the backbone too, then the CRF.

python -m apps.semantic_segmentation train camvid
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from apps.common import backbones, datasets, figures, runs, schedules
from apps.common.errors import BadInput
from apps.semantic_segmentation.config import VOID, Config, crf_settings
from apps.semantic_segmentation.data import count_pixels, load_examples, make_batches
from apps.semantic_segmentation.model import add_crf, build_crf, build_model

# Variables of the CRF, which do not decay.
CRF_VARIABLES = ["appearance", "smoothness", "support"]


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
    batches = make_batches(splits["train"], config, training=True)
    validation_batches = None
    if len(splits["validation"]):
        validation_batches = make_batches(splits["validation"], config)
    classes = splits["train"].classes
    pixel_counts = count_pixels(splits["train"])
    if not pixel_counts.any():
        raise BadInput(
            f"all pixels of the training masks in {config.data} are unlabelled; fix "
            "the masks, or change --void"
        )
    weights = class_weights(pixel_counts, config.class_balance)
    with runs.dtype_policy(config.precision):
        model = build_model(
            num_classes=len(classes),
            architecture=config.architecture,
            backbone=config.backbone,
            weights=config.weights,
            dropout=config.dropout,
        )
    runs.start(config, run, splits.held_out)
    runs.write_json(run / "classes.json", classes)

    head, fine_tuning, crf_training = schedules.limit_epochs(
        len(batches),
        config.max_steps,
        config.head_epochs if config.weights else 0,
        config.epochs,
        config.crf_epochs,
    )

    def fit(model, phase, learning_rate, first_epoch, length):
        compile_model(model, weights, learning_rate, config.weight_decay)
        runs.fit(
            model,
            batches.take(length.steps_per_epoch),
            validation_batches,
            run,
            phase,
            monitor="val_mean_iou",
            mode="max",
            patience=config.patience,
            max_minutes=config.max_minutes,
            initial_epoch=first_epoch,
            epochs=first_epoch + length.epochs,
            total_epochs=head.epochs + fine_tuning.epochs + crf_training.epochs,
        )
        return first_epoch + length.epochs

    # Phase 1: train the decoder on a frozen backbone.
    epoch = 0
    if head.epochs:
        backbones.set_trainable(model.get_layer("backbone"), fraction=0)
        epoch = fit(model, "head", config.head_learning_rate, epoch, head)

    # Phase 2: fine-tune the backbone too, slowly, so that it keeps its features.
    if config.weights:
        backbones.set_trainable(model.get_layer("backbone"), config.fine_tune_fraction)
    schedule = schedules.warm_up_and_decay(config.learning_rate, fine_tuning.steps)
    epoch = fit(model, "fine_tuning", schedule, epoch, fine_tuning)

    # Phase 3: train the network and the CRF end to end.
    if crf_training.epochs:
        crf = build_crf(num_classes=len(classes), **crf_settings(config))
        with runs.dtype_policy(config.precision):
            model = add_crf(model, crf)
        schedule = schedules.warm_up_and_decay(
            config.crf_learning_rate, crf_training.steps
        )
        fit(model, "crf", schedule, epoch, crf_training)

    figures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run, "val_mean_iou", "max")


def compile_model(model, class_weights, learning_rate, weight_decay):
    """Compiles the model with the optimizer, the loss and the metric of all phases."""
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=CRF_VARIABLES)
    model.compile(
        optimizer=optimizer,
        loss=balanced_cross_entropy(class_weights),
        metrics=[
            keras.metrics.MeanIoU(
                len(class_weights),
                ignore_class=VOID,
                sparse_y_pred=False,
                name="mean_iou",
            )
        ],
        jit_compile=False,  # On CPUs, XLA's convolutions are several times slower.
    )


def balanced_cross_entropy(class_weights):
    """Returns a cross-entropy that weights pixels by class and ignores unlabelled ones.

    Args:
        class_weights: One weight per class.

    Returns:
        A function of class numbers, int `(batch, height, width)`, and logits, float32
        `(batch, height, width, classes)`. It returns the weighted mean over all pixels.
    """
    weights_by_number = np.zeros(VOID + 1, "float32")
    weights_by_number[: len(class_weights)] = class_weights

    def cross_entropy(labels, logits):
        weights = keras.ops.take(weights_by_number, keras.ops.cast(labels, "int32"))
        labels = keras.ops.where(labels == VOID, 0, labels)
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        return keras.ops.sum(weights * losses) / (keras.ops.sum(weights) + 1e-6)

    return cross_entropy


def class_weights(pixel_counts, balance):
    """Returns one weight per class: its frequency to the power of minus `balance`.

    The weights are scaled so that the mean over all pixels is 1. Classes without pixels
    get the weight 0.

    Args:
        pixel_counts: Number of pixels of each class.
        balance: 0 weights all pixels equally, 1 all classes.
    """
    frequencies = pixel_counts / pixel_counts.sum()
    weights = np.where(frequencies > 0, np.maximum(frequencies, 1e-12) ** -balance, 0.0)
    return weights / (frequencies * weights).sum()
