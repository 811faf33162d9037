import csv
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import runs
from apps.common.errors import BadInput


@dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: int = 3
    weights: str | None = None
    sizes: tuple[int, ...] = (3, 4)


X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 0).astype("float32")


def make_model(learning_rate=0.05):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def batches():
    """Returns four batches."""
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


class KilledError(Exception):
    pass


class Killer(keras.callbacks.Callback):
    """Ends a training in one of its steps."""

    def __init__(self, in_step):
        super().__init__()
        self.steps_left = in_step

    def on_train_batch_end(self, batch, logs=None):
        self.steps_left -= 1
        if self.steps_left == 0:
            raise KilledError


def test_a_run_is_reopened_only_with_the_same_settings(tmp_path):
    run = tmp_path / "run"
    assert runs.finished(Config(), run) is None
    assert not run.exists()
    runs.start(Config(), run, {})
    assert runs.finished(Config(), run) is None
    assert runs.load_config(Config, run) == Config()
    with pytest.raises(BadInput, match=r"another epochs, seed; pass --run"):
        runs.finished(Config(seed=1, epochs=4), run)


def test_tuples_survive_a_round_trip(tmp_path):
    for config in (Config(sizes=(7, 5, 6)), Config(sizes=())):
        runs.start(config, tmp_path, {})
        assert runs.load_config(Config, tmp_path) == config
        assert runs.finished(config, tmp_path) is None
    with pytest.raises(BadInput, match="another sizes"):
        runs.finished(Config(sizes=(7, 5, 8)), tmp_path)


def test_settings_of_another_version_are_named():
    with pytest.raises(BadInput, match="had the settings fine_tune, told; train or"):
        runs.make_config(Config, {"seed": 1, "told": 0.5, "fine_tune": 1})


def test_held_out_examples_are_recorded(tmp_path):
    assert runs.read_held_out(tmp_path) == {}
    held_out = {"test": ["a1", "b2"], "validation": ["c3"]}
    runs.start(Config(), tmp_path, held_out)
    assert runs.read_held_out(tmp_path) == held_out


def test_the_dtype_policy_is_restored():
    before = keras.config.dtype_policy().name
    with runs.dtype_policy("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == before
    with pytest.raises(KilledError), runs.dtype_policy("mixed_float16"):
        raise KilledError
    assert keras.config.dtype_policy().name == before


def test_without_validation_the_last_epoch_is_kept(tmp_path):
    def losing(learning_rate):
        """Returns a model that becomes worse with every epoch."""
        model = make_model()
        model.compile(keras.optimizers.SGD(-learning_rate), "mse", metrics=["accuracy"])
        return model

    options = {"monitor": "val_accuracy", "mode": "max"}
    first = losing(0.1)
    phase = {"phase": "first", "epochs": 2}
    runs.fit(first, batches(), None, tmp_path, **phase, **options)
    second = losing(0.2)
    second.set_weights(first.get_weights())
    phase = {"phase": "second", "initial_epoch": 2, "epochs": 4}
    runs.fit(second, batches(), None, tmp_path, **phase, **options)
    losses = [row["loss"] for row in runs.read_history(tmp_path)]
    assert losses == sorted(losses)
    assert len(losses) == 4
    kept = keras.saving.load_model(tmp_path / "model.keras")
    for mine, theirs in zip(kept.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    summary = runs.finish(tmp_path, **options)
    assert set(summary) == {"best_epoch", "epochs", "minutes"}
    assert (summary["best_epoch"], summary["epochs"]) == (4, 4)


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = make_model()
    runs.fit(whole, batches(), batches(), tmp_path / "whole", phase="only", epochs=3)

    run = tmp_path / "interrupted"
    run.mkdir()
    # In the middle of the second epoch.
    only = {"phase": "only", "epochs": 3}
    with pytest.raises(KilledError):
        runs.fit(make_model(), batches(), batches(), run, **only, callbacks=[Killer(6)])
    assert len(runs.read_history(run)) == 1

    again = make_model()
    runs.fit(again, batches(), batches(), run, **only)
    for mine, theirs in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    assert [row["epoch"] for row in runs.read_history(run)] == [0, 1, 2]

    # A finished phase is not trained again.
    runs.fit(make_model(), batches(), batches(), run, **only)
    assert len(runs.read_history(run)) == 3


def test_an_interrupted_second_phase_resumes(tmp_path):
    def train(run, callbacks=()):
        run.mkdir(exist_ok=True)
        model = make_model()
        runs.fit(model, batches(), batches(), run, phase="first", epochs=2)
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["accuracy"])
        second = {"phase": "second", "initial_epoch": 2, "epochs": 5}
        runs.fit(model, batches(), batches(), run, **second, callbacks=callbacks)
        return model

    whole = train(tmp_path / "whole")
    with pytest.raises(KilledError):
        train(tmp_path / "run", callbacks=[Killer(6)])
    assert len(runs.read_history(tmp_path / "run")) == 3
    again = train(tmp_path / "run")
    for mine, theirs in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    epochs = [row["epoch"] for row in runs.read_history(tmp_path / "run")]
    assert epochs == [0, 1, 2, 3, 4]


def test_a_phase_that_ended_early_is_not_resumed(tmp_path):
    for _ in range(2):
        model = make_model(learning_rate=0.0)
        phase = {"phase": "only", "epochs": 9, "patience": 1}
        runs.fit(model, batches(), batches(), tmp_path, **phase)
        assert len(runs.read_history(tmp_path)) == 2


def test_a_callback_can_add_the_monitored_metric(tmp_path):
    class Adder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_bleu"] = [3.0, 7.0, 5.0, 4.0, 9.0][epoch]

    options = {"monitor": "val_bleu", "mode": "max", "patience": 2}
    for _ in range(2):  # A finished phase is not trained again.
        runs.fit(
            make_model(),
            batches(),
            batches(),
            tmp_path,
            phase="only",
            epochs=5,
            callbacks=[Adder()],
            **options,
        )
    rows = runs.read_history(tmp_path)
    assert [row["val_bleu"] for row in rows] == [3, 7, 5, 4]
    summary = runs.finish(tmp_path, "val_bleu", "max")
    assert (summary["best_epoch"], summary["val_bleu"]) == (2, 7)
    kept = keras.saving.load_model(tmp_path / "model.keras")
    loss = kept.evaluate(batches(), verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(rows[1]["val_loss"], rel=1e-4)


def test_the_best_epoch_is_kept_across_interruptions(tmp_path):
    def epoch(callback, loss):
        callback.set_model(make_model())
        callback.model.layers[0].bias.assign([loss])
        callback.on_epoch_end(0, {"val_loss": loss})

    path = tmp_path / "model.keras"
    callback = runs.BestModel(path, "val_loss", "min")
    for loss in (3.0, 1.0, 2.0):
        epoch(callback, loss)
    epoch(runs.BestModel(path, "val_loss", "min", best=1.0), 1.5)
    assert keras.saving.load_model(path, compile=False).layers[0].bias.numpy() == [1.0]
    epoch(runs.BestModel(path, "val_loss", "min", best=1.0), 0.5)
    assert keras.saving.load_model(path, compile=False).layers[0].bias.numpy() == [0.5]
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_early_stopping_compares_with_the_best_epoch_so_far(tmp_path):
    with (tmp_path / "history.csv").open("w") as file:
        writer = csv.writer(file)
        names = ["epoch", "accuracy", "loss", "seconds", "val_accuracy", "val_loss"]
        writer.writerow(names)
        writer.writerow([0, 1, 0, 1, 1, 0])  # No later epoch is better.
    runs.fit(
        make_model(learning_rate=0.0),
        batches(),
        batches(),
        tmp_path,
        phase="only",
        initial_epoch=1,
        epochs=9,
        patience=2,
    )
    assert len(runs.read_history(tmp_path)) == 3


def test_the_summary_has_the_best_epoch(tmp_path):
    (tmp_path / "history.csv").write_text(
        "epoch,seconds,val_accuracy,val_loss\n"
        "0,60,0.5,3\n1,60,0.9,1\n1,30,0.8,2\n2,30,0.7,2.5\n"
    )
    assert runs.summary(tmp_path) is None
    summary = runs.finish(tmp_path)
    assert summary == {
        "best_epoch": 2,
        "epochs": 3,
        "val_accuracy": 0.8,  # The second attempt at epoch 1 counts.
        "val_loss": 2.0,
        "minutes": 2.0,
    }
    assert runs.summary(tmp_path) == summary
    runs.start(Config(), tmp_path, {})
    assert runs.finished(Config(), tmp_path) == summary


def test_only_a_finished_run_is_accepted_for_export(tmp_path):
    with pytest.raises(BadInput, match=r"^--run .* holds no trained model; run train"):
        runs.require_finished(tmp_path)
    (tmp_path / "model.keras").touch()
    with pytest.raises(BadInput, match=r"^--run .* is not finished; run its train"):
        runs.require_finished(tmp_path)
    runs.write_json(tmp_path / "finished.json", {"epochs": 1})
    assert runs.require_finished(tmp_path) == {"epochs": 1}


def test_figures_of_an_evaluation_lie_in_the_run_or_beside_all_runs(tmp_path):
    (tmp_path / "model.keras").touch()
    folder = runs.evaluation_folder(str(tmp_path), "reading")
    assert folder == tmp_path / "evaluation"
    for other in ("saved_models/reading/1", "http://127.0.0.1:8501/v1/models/reading"):
        folder = runs.evaluation_folder(other, "reading")
        assert folder.as_posix() == "runs/reading/evaluation"


def test_files_are_replaced_in_one_step(tmp_path):
    path = tmp_path / "classes.json"
    runs.write_json(path, ["schön"])
    assert "schön" in path.read_text("utf-8")
    # Whoever has the old file open still reads all of it.
    with path.open("rb") as earlier:
        runs.write_bytes(path, b"\x00new")
        assert "schön" in earlier.read().decode()
    assert path.read_bytes() == b"\x00new"
    assert [file.name for file in tmp_path.iterdir()] == ["classes.json"]
