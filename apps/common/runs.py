"""A run directory holds all that one training writes.

runs/<app>/<name>/
├── config.json       what was asked for
├── classes.json      what the model answers with
├── model.keras       the best epoch so far
├── history.csv       the metrics of every epoch; curves.png draws them
├── backup/           where an interrupted training continues
├── logs/             for TensorBoard
└── finished.json     the best epoch, once the training has come to its end
"""

import csv
import dataclasses
import json
import os
import time
from pathlib import Path

import keras

from apps.common.errors import BadInput


def finished(config, run: Path):
    """Returns the summary of a training that has come to its end, otherwise None.

    Raises:
        BadInput: The directory holds a run with other settings.
    """
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    if (run / "config.json").exists():
        recorded = json.loads((run / "config.json").read_text())
        changed = sorted(
            name
            for name in settings.keys() | recorded.keys()
            if settings.get(name) != recorded.get(name)
        )
        if changed:
            raise BadInput(
                f"{run} holds a training with another {', '.join(changed)}; "
                "pass --run with a new directory, or delete that one"
            )
    return summary(run)


def start(config, run: Path):
    """Makes the run directory, and records the settings in it."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "config.json", dataclasses.asdict(config))


def load_config(config_class, run: Path):
    """Reads back the configuration of a run."""
    return make_config(config_class, json.loads((run / "config.json").read_text()))


def make_config(config_class, settings):
    """Makes a configuration from JSON, which has lists where it has tuples."""
    return config_class(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in settings.items()
        }
    )


def fit(
    model,
    train_batches,
    validation_batches,
    run: Path,
    phase: str,
    *,
    monitor="val_loss",
    mode="min",
    patience=None,
    callbacks=(),
    **options,
):
    """Trains one phase; called again after an interruption, it continues it.

    Args:
        model: A compiled Keras model.
        train_batches: Batches to learn from.
        validation_batches: Batches that choose the best epoch; None keeps the last.
        run: The run directory.
        phase: The phase's name; each has a backup of its own.
        monitor: The metric that chooses the best epoch. Defaults to `val_loss`.
        mode: Whether its `min` or its `max` is best. Defaults to `min`.
        patience: Epochs without improvement after which the phase ends early. Defaults
            to None, never.
        callbacks: Others that are to run before those of the run directory, such as
            one that adds a metric.
        **options: As in `model.fit`: `epochs`, `initial_epoch`, `class_weight`.
    """
    folder = run / "backup" / phase
    done = restore(model, folder)
    if (folder / "finished").exists():
        return
    if done:
        options["initial_epoch"] = done
    if validation_batches is None:
        monitor, mode = "epoch", "max"
    row = best_epoch(run, monitor, mode)
    best = row and row[monitor]
    # In this order a kill between two of them loses nothing: an epoch is written down
    # only when its model is safe, and counts as done only when all is written.
    callbacks = [
        *callbacks,
        EpochSeconds(),
        BestModel(run / "model.keras", monitor, mode, best),
        keras.callbacks.CSVLogger(run / "history.csv", append=True),
        keras.callbacks.TensorBoard(run / "logs" / phase, write_graph=False),
        Backup(folder),
    ]
    if patience and validation_batches is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor, patience=patience, mode=mode, baseline=best
            )
        )
    model.fit(
        train_batches,
        validation_data=validation_batches,
        callbacks=callbacks,
        shuffle=False,  # The data set shuffles itself.
        **options,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "finished").touch()


def restore(model, folder: Path):
    """Loads the latest backup of a phase, weights and optimizer, into the model.

    Returns:
        The number of epochs done, or None if there is no backup.
    """
    backups = sorted(folder.glob("epoch_*.weights.h5"))
    if not backups:
        return None
    model.optimizer.build(model.trainable_variables)
    model.load_weights(backups[-1])
    return int(backups[-1].name.removeprefix("epoch_").split(".")[0])


def finish(run: Path, monitor="val_loss", mode="min"):
    """Marks the training as finished and says what it reached."""
    history = read_history(run)
    if monitor not in history[-1]:  # Without validation the last epoch is kept.
        monitor, mode = "epoch", "max"
    best = best_epoch(run, monitor, mode)
    result = {
        "best_epoch": int(best["epoch"]) + 1,
        "epochs": len(history),
        **{name: best[name] for name in best if name.startswith("val_")},
        "minutes": round(sum(row["seconds"] for row in history) / 60, 1),
    }
    write_json(run / "finished.json", result)
    return result


def summary(run: Path):
    """Returns what `finish` said of a run, or None before that."""
    path = run / "finished.json"
    return json.loads(path.read_text()) if path.exists() else None


def require_finished(run: Path):
    """Checks that a run can be exported.

    Raises:
        BadInput: It holds no trained model, or its training has not come to its end.
    """
    if not (run / "model.keras").exists():
        raise BadInput(f"--run {run} holds no trained model; run train first")
    if not summary(run):
        raise BadInput(
            f"--run {run} is not finished; give its train command again first"
        )


def evaluation_folder(model, application):
    """Returns where the pictures of an evaluation belong.

    Args:
        model: Where the model is, as `predictors.load_predictor` takes it.
        application: The name of the application.

    Returns:
        `evaluation` in a run directory; `runs/APPLICATION/evaluation` for other models.
    """
    is_run = (Path(model) / "model.keras").exists()
    return (Path(model) if is_run else Path("runs") / application) / "evaluation"


def read_history(run: Path):
    """Returns one dictionary of numbers per epoch, the first epoch first."""
    path = run / "history.csv"
    if not path.exists():
        return []
    with path.open() as file:
        rows = [
            # Without validation there are columns for it that hold NA.
            {name: float(value) for name, value in row.items() if value != "NA"}
            for row in csv.DictReader(file)
        ]
    # An epoch that was written down but interrupted before its backup was run again.
    return list({row["epoch"]: row for row in rows}.values())


def best_epoch(run: Path, monitor, mode):
    """Returns the row of the best epoch so far, or None before the first."""
    choose = max if mode == "max" else min
    return choose(read_history(run), key=lambda row: row[monitor], default=None)


def write_json(path: Path, content):
    """Writes content as JSON, as `write_bytes` does."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, content):
    """Writes the file in one step, so that a kill never leaves half of it."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


class BestModel(keras.callbacks.Callback):
    """Keeps the best model of a run.

    Unlike `keras.callbacks.ModelCheckpoint` it replaces the file in one step, so that
    a kill never leaves half of one.

    Args:
        path: The `.keras` file.
        monitor: The metric to compare.
        mode: `max` or `min`.
        best: The best value of earlier epochs, if there were any.
    """

    def __init__(self, path, monitor, mode, best=None):
        super().__init__()
        self.path = path
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        """Saves the model if it is the best so far."""
        value = {"epoch": epoch, **logs}[self.monitor]
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best = value
            unfinished = self.path.with_name("unfinished.keras")
            self.model.save(unfinished)
            os.replace(unfinished, self.path)


class Backup(keras.callbacks.Callback):
    """Keeps weights and optimizer after every epoch, for `restore`.

    Unlike `keras.callbacks.BackupAndRestore` it never leaves half a file either.

    Args:
        folder: Where to keep them.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        """Writes the new backup, then removes the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = list(self.folder.glob("epoch_*.weights.h5"))
        unfinished = self.folder / "unfinished.weights.h5"
        self.model.save_weights(unfinished, overwrite=True)
        os.replace(unfinished, self.folder / f"epoch_{epoch + 1:06d}.weights.h5")
        for path in earlier:
            path.unlink()


class EpochSeconds(keras.callbacks.Callback):
    """Adds the duration of every epoch to its metrics, in seconds."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Reads the clock."""
        logs["seconds"] = time.perf_counter() - self.start
