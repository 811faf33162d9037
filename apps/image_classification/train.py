"""Trains a classifier in two phases: first its head, then the backbone too.

python -m apps.image_classification train flowers
"""

from pathlib import Path

import keras

from apps.common import backbones, datasets, pictures, runs, schedules
from apps.image_classification.data import load_examples, make_batches
from apps.image_classification.model import build_model


def train(config, run: Path):
    """Trains a model and leaves it in the run directory, as `runs` describes it.

    Args:
        config: A `Config`.
        run: The run directory; an interrupted training in it is continued.

    Returns:
        The summary of the training: best epoch, validation accuracy and minutes.
    """
    if summary := runs.finished(config, run):
        return summary
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)

    splits, class_names = load_examples(
        config.data, config.validation_fraction, config.seed
    )
    batches = make_batches(splits["train"], config, len(class_names), training=True)
    validation_batches = make_batches(splits["validation"], config, len(class_names))
    class_weight = None
    if config.class_weights:
        class_weight = dict(
            enumerate(
                datasets.balanced_weights(splits["train"].labels, len(class_names))
            )
        )

    model = build_model(
        len(class_names),
        config.image_size,
        config.backbone,
        config.backbone_output,
        config.weights,
        config.dropout,
    )
    runs.start(config, run)
    runs.write_json(run / "classes.json", class_names)

    # Phase 1: the backbone is frozen, the head learns to read its features.
    head_epochs = config.head_epochs if config.weights else 0
    if head_epochs:
        backbones.set_trainable(model.get_layer("backbone"), share=0)
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

    # Phase 2: the backbone learns too, slowly, so that it keeps what it knows.
    if config.weights:
        backbones.set_trainable(model.get_layer("backbone"), config.fine_tune)
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
    pictures.draw_curves(runs.read_history(run), run / "curves.png")
    return runs.finish(run)


def compile_model(model, config, learning_rate):
    """Compiles with the optimizer, the loss and the metric of both phases."""
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
