"""Trains a segmenter: first its decoder, then all of it, then with the CRF.

python -m apps.semantic_segmentation train camvid
"""

from pathlib import Path

import keras
import numpy as np

from apps.common import backbones, pictures, runs, schedules
from apps.common.errors import BadInput
from apps.semantic_segmentation.data import (
    VOID,
    count_pixels,
    load_examples,
    make_batches,
)
from apps.semantic_segmentation.model import (
    CRF_WEIGHTS,
    add_crf,
    build_model,
    make_crf,
)


def train(config, run: Path):
    """Trains a model and leaves it in the run directory, as `runs` describes it.

    Args:
        config: A `Config`.
        run: The run directory; an interrupted training in it is continued.

    Returns:
        The summary of the training: best epoch, validation mean IoU and minutes.
    """
    if summary := runs.finished(config, run):
        return summary
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)

    splits, classes = load_examples(config)
    batches = make_batches(splits["train"], config, training=True)
    validation_batches = make_batches(splits["validation"], config)
    if not len(splits["validation"]):
        validation_batches = None
    pixel_counts = count_pixels(splits["train"], len(classes))
    if not pixel_counts.any():
        raise BadInput(
            f"all pixels of the training masks in {config.data} are void; mend them, "
            "or --void"
        )
    weights = class_weights(pixel_counts, config.class_balance)
    model = build_model(
        len(classes), config.model, config.backbone, config.weights, config.dropout
    )
    runs.start(config, run)
    runs.write_json(run / "classes.json", classes)

    def fit(model, phase, learning_rate, first_epoch, epochs):
        compile_model(model, weights, learning_rate, config.weight_decay)
        runs.fit(
            model,
            batches,
            validation_batches,
            run,
            phase,
            monitor="val_mean_iou",
            mode="max",
            patience=config.patience,
            initial_epoch=first_epoch,
            epochs=first_epoch + epochs,
        )
        return first_epoch + epochs

    # Phase 1: the backbone is frozen, the decoder learns to read its features.
    epoch = 0
    if config.weights and config.head_epochs:
        backbones.set_trainable(model.get_layer("backbone"), share=0)
        epoch = fit(model, "head", config.head_learning_rate, epoch, config.head_epochs)

    # Phase 2: the backbone learns too, slowly, so that it keeps what it knows.
    if config.weights:
        backbones.set_trainable(model.get_layer("backbone"), config.fine_tune)
    schedule = schedules.warm_up_and_decay(
        config.learning_rate, steps=len(batches) * config.epochs
    )
    epoch = fit(model, "fine_tuning", schedule, epoch, config.epochs)

    # Phase 3: gradients pass through the CRF's iterations.
    if config.crf_epochs:
        model = add_crf(model, make_crf(config))
        schedule = schedules.warm_up_and_decay(
            config.crf_learning_rate, steps=len(batches) * config.crf_epochs
        )
        fit(model, "crf", schedule, epoch, config.crf_epochs)

    pictures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run, "val_mean_iou", "max")


def compile_model(model, class_weights, learning_rate, weight_decay):
    """Compiles with the optimizer, the loss and the metric of all phases."""
    num_classes = len(class_weights)
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=CRF_WEIGHTS)
    model.compile(
        optimizer=optimizer,
        loss=balanced_cross_entropy(class_weights),
        metrics=[
            keras.metrics.MeanIoU(
                num_classes, ignore_class=VOID, sparse_y_pred=False, name="mean_iou"
            )
        ],
        jit_compile=False,  # On CPUs, XLA's convolutions are several times slower.
    )


def balanced_cross_entropy(class_weights):
    """Returns a loss in which every pixel counts as its class does, and void nothing.

    Args:
        class_weights: The weight of each class.

    Returns:
        A function of class numbers, int `(batch, height, width)`, and of logits,
        `(batch, height, width, classes)`; it gives the mean over all weighted pixels.
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
    """Returns a weight per class: its frequency to the power of minus `balance`.

    The mean weight of a pixel is 1. A class without pixels weighs nothing.

    Args:
        pixel_counts: How many pixels each class has.
        balance: 0 leaves pixels alike, 1 makes classes weigh alike.
    """
    frequencies = pixel_counts / pixel_counts.sum()
    weights = np.where(frequencies > 0, np.maximum(frequencies, 1e-12) ** -balance, 0.0)
    return weights / (frequencies * weights).sum()
