"""Trains a model that draws faces: an autoencoder, a GAN or a conditional GAN.

python -m apps.face_synthesis train utkface
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common import baselines, datasets, figures, images, runs, schedules
from apps.common.errors import BadInput
from apps.face_synthesis import attributes as attributes_module
from apps.face_synthesis import baseline, metrics
from apps.face_synthesis.config import Config
from apps.face_synthesis.data import (
    keep_complete,
    load_examples,
    load_pixels,
    make_batches,
    print_expectation,
)
from apps.face_synthesis.grids import tile
from apps.face_synthesis.metrics import Features, ValidationDistance
from apps.face_synthesis.model import BETA_1, BETA_2, build_model
from apps.face_synthesis.signatures import Synthesizer

DRAWING_BATCH = 64
GRID_COLUMNS, GRID_ROWS = 8, 8
# The Fréchet distance of fewer validation faces says little. The last epoch is kept
# then.
MIN_IMAGES = 20


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
    attributes = choose_attributes(splits["train"], config, run)
    codes = keep_complete(splits, attributes)
    datasets.print_summary(config.data, splits, "image")
    print_expectation(splits["train"])
    value_counts = [len(each.values) for each in attributes]
    if sum(value_counts) >= config.latent_size:
        raise BadInput(
            f"the attributes have {sum(value_counts)} values; pass a larger "
            "--latent-size, or fewer --columns"
        )
    model = build_model(config=config, value_counts=value_counts)
    features = Features(config.weights)
    runs.start(config, run, splits.held_out)
    combinations, probabilities = attributes_module.combine(codes["train"])
    attributes_module.save(attributes, combinations, probabilities, run)
    runs.write_json(run / "classes.json", attributes_module.labels(attributes))
    record = baselines.read(str(run)) or baseline.measure(splits, features, config, run)

    batches, validation_batches = (
        make_batches(
            splits[split],
            attributes_module.one_hot(attributes, codes[split]),
            config,
            training=split == "train",
        )
        for split in ("train", "validation")
    )
    (length,) = schedules.limit_epochs(len(batches), config.max_steps, config.epochs)
    compile_model(model, config, length.steps)
    synthesizer = Synthesizer(model, attributes, combinations, probabilities, config)
    monitor = ("val_frechet_distance", "min")
    if len(splits["validation"]) < MIN_IMAGES:
        monitor = ("epoch", "max")
        print(
            f"{len(splits['validation'])} validation images are too few to choose an "
            "epoch; the last one is kept, and --patience has no effect"
        )
    draw = make_drawer(synthesizer)
    validation = datasets.evenly(splits["validation"], metrics.MAX_FACES)
    runs.fit(
        model,
        batches.take(length.steps_per_epoch),
        validation_batches,
        run,
        "training",
        epochs=length.epochs,
        monitor=monitor[0],
        mode=monitor[1],
        patience=config.patience,
        max_minutes=config.max_minutes,
        callbacks=[
            ValidationDistance(
                lambda: draw(range(config.num_validation_samples)),
                features(load_pixels(validation, config)),
                features,
            ),
            SampleGrid(lambda: draw(range(GRID_ROWS * GRID_COLUMNS)), run / "samples"),
        ],
    )
    figures.draw_curves(runs.read_history(run), run / "curves.png")
    summary = runs.finish(run, *monitor)
    baselines.print_verdict(
        record,
        "frechet_distance",
        summary["val_frechet_distance"],
        "train longer, or add images",
        higher_is_better=False,
    )
    return summary


def choose_attributes(examples, config, run):
    """Returns the attributes that a model learns; only a conditional GAN has any.

    Args:
        examples: The training `Examples`.
        config: The settings.
        run: The run directory. An interrupted training has its attributes there.

    Returns:
        A tuple of `Attribute`.

    Raises:
        BadInput: There are no attributes that can be used.
    """
    if (run / attributes_module.FILE).exists():
        return attributes_module.load(run)[0]
    if config.model == "conditional_gan":
        return attributes_module.find_attributes(examples, config)
    return ()


def compile_model(model, config, steps):
    """Compiles a model with the optimizer for so many steps."""
    if config.model == "vae":
        schedule = schedules.warm_up_and_decay(config.learning_rate, steps)
        optimizer = keras.optimizers.Adam(schedule)
    else:
        optimizer = keras.optimizers.Adam(config.learning_rate, BETA_1, BETA_2)
    model.compile(optimizer, jit_compile=False)  # On CPUs, XLA is slower.


def make_drawer(synthesizer):
    """Returns a function from seeds to faces, uint8 `(faces, size, size, 3)`.

    It draws what the exported model draws, in batches.
    """

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def draw_batch(seeds):
        return synthesizer.draw_batch(seeds)

    def draw(seeds):
        seeds = np.array(seeds, "int64")
        parts = [
            draw_batch(seeds[start : start + DRAWING_BATCH]).numpy()
            for start in range(0, len(seeds), DRAWING_BATCH)
        ]
        return np.concatenate(parts)

    return draw


class SampleGrid(keras.callbacks.Callback):
    """Draws the faces of the same seeds after every epoch.

    Args:
        draw: Returns the faces, uint8 `(faces, size, size, 3)`.
        folder: The folder for the grids.
    """

    def __init__(self, draw: Callable[[], np.ndarray], folder: Path):
        super().__init__()
        self.draw = draw
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Writes the grid of the epoch."""
        self.folder.mkdir(exist_ok=True)
        grid = tile(self.draw(), GRID_COLUMNS)
        runs.write_bytes(
            self.folder / f"epoch_{epoch + 1:04}.png", images.encode_png(grid)
        )
