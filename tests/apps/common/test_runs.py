import contextlib
import csv
import os
import resource
from dataclasses import dataclass
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import progress, runs
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


def batches(shuffled=False):
    """Returns four batches."""
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    if shuffled:
        dataset = dataset.shuffle(len(X), seed=3)
    return dataset.batch(8).prefetch(2)


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


def fake_time(monkeypatch):
    """Replaces the clock by one that only `Seconds` moves."""
    fake = SimpleNamespace(now=0.0)
    fake.perf_counter = lambda: fake.now
    for module in (runs, progress):
        monkeypatch.setattr(module, "time", fake)


class Seconds(keras.callbacks.Callback):
    """Lets a step take one second of the replaced clock, and a validation two."""

    def on_train_batch_end(self, batch, logs=None):
        progress.time.now += 1

    def on_test_end(self, logs=None):
        progress.time.now += 2


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


@pytest.mark.parametrize("seconds", [0, 1000])
def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    tmp_path, monkeypatch, seconds
):
    def fit(run, *callbacks):
        run.mkdir(exist_ok=True)
        model = make_model()
        phase = {"phase": "only", "epochs": 4, "callbacks": callbacks}
        runs.fit(model, batches(shuffled=True), batches(), run, **phase)
        return model

    whole = fit(tmp_path / "whole")
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_BACKUPS", seconds)
    run = tmp_path / "interrupted"
    killer = Killer(in_step=11)  # The third step of the third epoch.
    with pytest.raises(KilledError):
        fit(run, killer)
    assert len(runs.read_history(run)) == 2
    resumed = "step 2 of epoch 3" if seconds == 0 else "epoch 2"
    assert runs.describe_stop(run).endswith(f"resumes from the backup of {resumed}")

    counter = Killer(in_step=1000)
    again = fit(run, counter)
    for mine, theirs in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    assert [row["epoch"] for row in runs.read_history(run)] == [0, 1, 2, 3]
    assert 1000 - counter.steps_left == (6 if seconds == 0 else 8)
    assert len(list((run / "backup/only").glob("*.keras"))) == 1

    # A finished phase is not trained again.
    fit(run)
    assert len(runs.read_history(run)) == 4


def test_the_time_within_an_interrupted_epoch_counts(tmp_path, monkeypatch):
    fake_time(monkeypatch)
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_BACKUPS", 1)
    phase = {"phase": "only", "epochs": 2}
    for in_step in (3, 4, 100):  # Backups after 2 steps, and 3 more.
        with contextlib.suppress(KilledError):
            runs.fit(
                *(make_model(), batches(), batches(), tmp_path),
                **phase,
                callbacks=[Killer(in_step), Seconds()],
            )
    assert [row["seconds"] for row in runs.read_history(tmp_path)] == [6, 6]


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


@pytest.mark.parametrize("in_step", [5, 9])
def test_patience_survives_an_interruption(tmp_path, in_step):
    """The first epoch is the best; then two more are tried."""
    phase = {"phase": "only", "epochs": 9, "patience": 2}
    for callbacks in ([Killer(in_step)], []):
        with contextlib.suppress(KilledError):
            runs.fit(
                *(make_model(learning_rate=0.0), batches(), batches(), tmp_path),
                **phase,
                callbacks=callbacks,
            )
    assert len(runs.read_history(tmp_path)) == 3


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
        "epoch,seconds,val_accuracy,val_loss\n0,60,0.5,3\n1,30,0.8,2\n2,30,0.7,2.5\n"
    )
    assert runs.summary(tmp_path) is None
    summary = runs.finish(tmp_path)
    assert summary == {
        "best_epoch": 2,
        "epochs": 3,
        "val_accuracy": 0.8,
        "val_loss": 2.0,
        "minutes": 2.0,
    }
    assert runs.summary(tmp_path) == summary
    runs.start(Config(), tmp_path, {})
    assert runs.finished(Config(), tmp_path) == summary


def test_epochs_have_the_numbers_that_the_training_printed(tmp_path):
    """The first phase ended after two of four epochs."""
    (tmp_path / "history.csv").write_text(
        "epoch,seconds,val_loss\n0,60,3\n1,30,2\n4,30,1\n5,30,1.5\n"
    )
    summary = runs.finish(tmp_path)
    assert (summary["best_epoch"], summary["epochs"]) == (5, 6)


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


def test_figures_of_other_data_have_a_folder_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "model.keras").touch()
    (tmp_path / "my cats/test").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "my cats")
    for data, name in (
        ("test", "evaluation_my_cats_test"),
        (str(tmp_path / "my cats/test"), "evaluation_my_cats_test"),
        ("tfds:beans", "evaluation_tfds_beans"),
        ("digits", "evaluation_digits"),
    ):
        folder = runs.evaluation_folder(str(tmp_path), "reading", data)
        assert folder == tmp_path / name
    folder = runs.evaluation_folder("saved_models/reading/1", "reading", "digits")
    assert folder.as_posix() == "runs/reading/evaluation_digits"


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


def test_an_epoch_that_ran_again_has_one_row_of_history(tmp_path):
    history = runs.History(tmp_path)
    # An early end of the first phase left out the second epoch.
    for epoch, loss in ((0, 3.0), (2, 2.0), (2, 1.0), (3, 0.5)):
        history.on_epoch_end(epoch, {"loss": loss})
    history.on_epoch_end(4, {"loss": 0.25, "val_loss": 0.125})
    rows = runs.read_history(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 2, 3, 4]
    assert [row["loss"] for row in rows] == [3, 1, 0.5, 0.25]
    assert [row.get("val_loss") for row in rows] == [None, None, None, 0.125]
    assert runs.read_history(tmp_path, before=3) == rows[:2]


def test_a_time_limit_ends_all_phases(tmp_path, monkeypatch, capsys):
    def train(callbacks=()):
        options = {"max_minutes": 0.5, "callbacks": [Seconds(), *callbacks]}
        model = make_model()
        for phase, first, last in (("a", 0, 3), ("b", 3, 9), ("c", 9, 12)):
            runs.fit(
                *(model, batches(), batches(), tmp_path, phase),
                **options,
                initial_epoch=first,
                epochs=last,
            )

    fake_time(monkeypatch)
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_BACKUPS", 1)
    with pytest.raises(KilledError):
        train([Killer(in_step=7)])
    train()
    rows = runs.read_history(tmp_path)
    # 6 seconds an epoch; after 28 seconds there is just time for a validation.
    assert [row["seconds"] for row in rows] == [6, 6, 6, 6, 6]
    assert "--max-minutes 0.5 is reached in epoch 5\n" in capsys.readouterr().out
    assert (tmp_path / "model.keras").exists()
    train()
    assert runs.read_history(tmp_path) == rows
    assert runs.finish(tmp_path)["minutes"] == 0.5


def test_a_time_limit_ends_an_epoch_early(tmp_path, monkeypatch):
    fake_time(monkeypatch)
    long = tf.data.Dataset.from_tensor_slices((X, Y)).batch(1)
    for _ in range(2):
        runs.fit(
            *(make_model(), long, batches(), tmp_path, "only"),
            epochs=9,
            max_minutes=0.25,
            callbacks=[Seconds()],
        )
    (row,) = runs.read_history(tmp_path)
    # Of 32 seconds. Four steps of validation are expected to take four seconds.
    assert row["seconds"] == 11 + 2
    assert row["val_loss"] > 0
    assert (tmp_path / "model.keras").exists()


def test_an_interruption_says_where_it_was(tmp_path):
    class Interrupter(Killer):
        def on_train_batch_end(self, batch, logs=None):
            self.steps_left -= 1
            if self.steps_left == 0:
                raise KeyboardInterrupt

    says = "stopped; there is no backup yet, so the same command starts again"
    assert runs.describe_stop(tmp_path / "nowhere") == says
    for in_step, epoch in ((2, 1), (5, 2)):
        with pytest.raises(
            KeyboardInterrupt, match=f"^in epoch {epoch} of 12$"
        ) as stop:
            runs.fit(
                *(make_model(), batches(), batches(), tmp_path, "first"),
                epochs=3,
                total_epochs=12,
                callbacks=[Interrupter(in_step)],
            )
    assert runs.describe_stop(tmp_path, *stop.value.args) == (
        "stopped in epoch 2 of 12; the same command resumes from the backup of epoch 1"
    )


def test_a_run_is_locked(tmp_path):
    run = tmp_path / "runs/mine"
    with runs.locked(run):
        before = set(tmp_path.rglob("*"))
        with (
            pytest.raises(BadInput, match=r"^another training uses .*mine; wait"),
            runs.locked(run),
        ):
            pass
        assert set(tmp_path.rglob("*")) == before
        runs.start(Config(), run, {})
    # What was written stays, and the next training may use it.
    with pytest.raises(KilledError), runs.locked(run):
        raise KilledError
    with runs.locked(run):
        assert runs.load_config(Config, run) == Config()


def test_a_run_is_no_file(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(BadInput, match=r"^--run .*file is a file; choose a directory"),
        runs.locked(tmp_path / "file"),
    ):
        pass


def test_a_run_in_which_nothing_was_written_is_removed(tmp_path):
    (tmp_path / "made before").mkdir()
    for run in ("made before/mine", "made before/deep/mine", "made before"):
        with pytest.raises(KilledError), runs.locked(tmp_path / run):
            raise KilledError
        assert [path.name for path in tmp_path.rglob("*")] == ["made before"]


@contextlib.contextmanager
def full_disk():
    """Refuses files of more than 2,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_training_resumes_after_the_disk_was_full(tmp_path, capfd):
    phase = {"phase": "only", "epochs": 2}
    with pytest.raises(KilledError):
        runs.fit(
            *(make_model(), batches(), batches(), tmp_path),
            **phase,
            callbacks=[Killer(in_step=5)],
        )
    files = [tmp_path / "model.keras", runs.backups(tmp_path)[-1][1]]
    before = [path.read_bytes() for path in files]
    with full_disk(), pytest.raises(OSError, match="File too large") as caught:
        runs.fit(make_model(), batches(), batches(), tmp_path, **phase)
    assert caught.value.filename == str(files[0])
    backup = runs.Backup(files[1].parent, clock=None)
    backup.set_model(make_model())
    with full_disk(), pytest.raises(OSError, match="File too large"):
        backup.save(runs.Position(2))
    del caught
    assert [path.read_bytes() for path in files] == before
    assert "Traceback" not in capfd.readouterr().err
    runs.fit(make_model(), batches(), batches(), tmp_path, **phase)
    assert len(runs.read_history(tmp_path)) == 2


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"good")
    with (
        full_disk(),
        pytest.raises(OSError, match="File too large") as caught,
        runs.replacing(path) as unfinished,
    ):
        unfinished.write_bytes(b"bad" * 1000)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"good"
    assert os.listdir(tmp_path) == ["model.keras"]
