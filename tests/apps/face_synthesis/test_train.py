"""The training; the contract kills one and resumes it."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common import runs
from apps.face_synthesis import attributes as attributes_module
from apps.face_synthesis.attributes import Attribute
from apps.face_synthesis.data import Examples
from apps.face_synthesis.grids import tile
from apps.face_synthesis.model import build_model
from apps.face_synthesis.signatures import Synthesizer, load_run
from apps.face_synthesis.train import (
    SampleGrid,
    choose_attributes,
    compile_model,
    make_drawer,
)
from tests.apps.face_synthesis.tiny import small

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), "uint8")
VALUES = np.eye(3, dtype="float32")[np.arange(24) % 3]


class Copy(keras.callbacks.Callback):
    """Copies a run as it is after its first epoch, for a training that goes on there.

    Args:
        source: The run directory.
        target: The copy.
    """

    def __init__(self, source, target):
        super().__init__()
        self.source, self.target = source, target

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            shutil.copytree(self.source, self.target)


def fit(config, run, epochs, callbacks=()):
    """Trains a new model in a run directory; returns it."""
    keras.utils.set_random_seed(config.seed)
    value_counts = [3] if config.model == "conditional_gan" else []
    model = build_model(config=config, value_counts=value_counts)
    compile_model(model, config, 3 * epochs)
    batches = tf.data.Dataset.from_tensor_slices(
        (IMAGES, VALUES[:, : sum(value_counts)])
    )
    batches = batches.shuffle(24, seed=0).batch(8)
    runs.fit(model, batches, None, run, "training", epochs=epochs, callbacks=callbacks)
    return model


@pytest.mark.parametrize("kind", ["vae", "conditional_gan"])
def test_a_resumed_training_ends_as_if_it_had_not_stopped(kind, tmp_path):
    config = small(model=kind, learning_rate=1e-2)
    run, copy = tmp_path / "run", tmp_path / "copy"
    straight = fit(config, run, 2, [Copy(run, copy)])
    resumed = fit(config, copy, 2)
    assert len(runs.read_history(copy)) == 2
    assert int(resumed.optimizer.iterations) == int(straight.optimizer.iterations) == 6
    moments = [
        variable
        for variable in resumed.optimizer.variables
        if variable.path.endswith(("_momentum", "_velocity"))
    ]
    assert len(moments) == 2 * len(resumed.trainable_variables)
    # Both networks, their moments in the optimizer, and the average.
    for ours, theirs in (
        (resumed.weights, straight.weights),
        (resumed.optimizer.variables, straight.optimizer.variables),
    ):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5, err_msg=one.path)


def test_a_run_has_a_grid_for_each_epoch(run, config):
    grids = sorted((run / "samples").iterdir())
    assert [path.name for path in grids] == [
        f"epoch_{epoch:04}.png" for epoch in range(1, config.epochs + 1)
    ]
    arrays = [np.asarray(Image.open(path)) for path in grids]
    assert {array.shape for array in arrays} == {(128, 128, 3)}
    assert (arrays[0] != arrays[-1]).any()


def test_the_grid_of_the_best_epoch_has_the_faces_of_the_seeds(run):
    best = runs.summary(run)["best_epoch"]
    grid = np.asarray(Image.open(run / f"samples/epoch_{best:04}.png")).astype(int)
    draw = make_drawer(load_run(run))
    assert np.abs(grid - tile(draw(range(64)), 8)).max() <= 2  # Rounded weights.


def test_the_history_has_the_frechet_distance(run):
    rows = runs.read_history(run)
    assert all(row["val_frechet_distance"] > 0 for row in rows)
    assert {"loss", "discriminator_loss", "real_score"} <= set(rows[0])
    assert runs.summary(run)["val_frechet_distance"] == pytest.approx(
        min(row["val_frechet_distance"] for row in rows)
    )
    assert (run / "baseline.json").exists()


def test_faces_of_one_request_do_not_depend_on_the_batch():
    config = small(model="gan")
    model = build_model(config=config, value_counts=[])
    empty = attributes_module.combine(np.zeros((1, 0), int))
    draw = make_drawer(Synthesizer(model, (), *empty, config))
    faces = draw(range(70))
    assert faces.shape == (70, 16, 16, 3)
    np.testing.assert_allclose(draw([66, 3]), faces[[66, 3]], atol=1)


def test_a_grid_replaces_that_of_a_stopped_epoch(tmp_path):
    callback = SampleGrid(lambda: IMAGES, tmp_path / "samples")
    for _ in range(2):
        callback.on_epoch_end(4)
    assert [path.name for path in tmp_path.glob("*/*")] == ["epoch_0005.png"]


def make_examples(*rows):
    names = [f"{i}.png" for i in range(len(rows))]
    return Examples(names, [b""] * len(rows), list(rows), ("sex",))


ROWS = [("f",), ("m",), ("",), ("m",)]
SEX = (Attribute("sex", ("f", "m")),)


def test_only_a_conditional_gan_learns_attributes(tmp_path):
    assert choose_attributes(make_examples(*ROWS), small(), tmp_path) == SEX
    config = small(model="gan")
    assert choose_attributes(make_examples(*ROWS), config, tmp_path) == ()


def test_an_interrupted_training_keeps_its_attributes(tmp_path):
    attributes_module.save(
        SEX, *attributes_module.combine(np.array([[0], [1]])), tmp_path
    )
    changed = make_examples(("x",), ("m",), ("f",))
    assert choose_attributes(changed, small(), tmp_path) == SEX
