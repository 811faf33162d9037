"""The run directory: everything that one training writes.

runs/<app>/<name>/
├── config.json       the settings
├── held_out.json     the ids of the examples that were held out at random
├── classes.json      the names of the classes
├── model.keras       the best epoch so far
├── history.csv       the metrics of every epoch; curves.png draws them
├── backup/           the checkpoint from which an interrupted training resumes
├── logs/             for TensorBoard
└── finished.json     the best epoch, when the training has finished
"""

import csv
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import keras

from apps.common.errors import BadInput

Config = TypeVar("Config")


def finished(config: Any, run: Path) -> dict[str, Any] | None:
    """Returns the summary of a finished training, and None for any other.

    Raises:
        BadInput: The directory holds a training with other settings.
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


def start(config: Any, run: Path, held_out: Mapping[str, Any]) -> None:
    """Makes the run directory and records the settings and the held-out examples.

    Args:
        config: The configuration.
        run: The run directory.
        held_out: `Splits.held_out` of the examples, as in `datasets`.
    """
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "config.json", dataclasses.asdict(config))
    write_json(run / "held_out.json", held_out)


def read_held_out(folder: Path) -> dict[str, list[str]]:
    """Returns the ids that `start` recorded, by split; none if there is no record."""
    path = folder / "held_out.json"
    return json.loads(path.read_text()) if path.exists() else {}


def load_config(config_class: type[Config], run: Path) -> Config:
    """Reads the configuration of a run."""
    return make_config(config_class, json.loads((run / "config.json").read_text()))


def make_config(config_class: type[Config], settings: Mapping[str, Any]) -> Config:
    """Makes a configuration from JSON, which has lists instead of tuples.

    Raises:
        BadInput: There are settings that the application does not have, because it has
            changed since they were recorded, or a setting is out of range.
    """
    fields = dataclasses.fields(config_class)  # type: ignore[arg-type]
    known = {field.name for field in fields}
    if unknown := sorted(settings.keys() - known):
        raise BadInput(
            "the model was trained by another version of the application, which had "
            f"the settings {', '.join(unknown)}; train or export it again"
        )
    return config_class(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in settings.items()
        }
    )


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets Keras' dtype policy while models are built, and restores it afterwards."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fit(
    model: keras.Model,
    train_batches: Any,
    validation_batches: Any,
    run: Path,
    phase: str,
    *,
    monitor: str = "val_loss",
    mode: str = "min",
    patience: int | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    **options: Any,
) -> None:
    """Trains one phase, or resumes it after an interruption.

    Args:
        model: A compiled Keras model.
        train_batches: Batches to learn from.
        validation_batches: Batches that choose the best epoch; None keeps the last.
        run: The run directory.
        phase: The name of the phase; each phase has its own checkpoint.
        monitor: The metric that chooses the best epoch. Defaults to `val_loss`.
        mode: `min` or `max`, the best value of that metric. Defaults to `min`.
        patience: Epochs without improvement after which the phase ends early. Defaults
            to None, never.
        callbacks: Callbacks that run before those of the run directory, such as one
            that adds a metric.
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
    best = best_epoch(run, monitor, mode).get(monitor)
    # The order matters after a kill: an epoch enters the history only when its model
    # is saved, and counts as done only when everything is written.
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


def restore(model: keras.Model, folder: Path) -> int | None:
    """Loads the latest checkpoint of a phase, weights and optimizer, into the model.

    Returns:
        The number of epochs done, or None if there is no checkpoint.
    """
    checkpoints = sorted(folder.glob("epoch_*.weights.h5"))
    if not checkpoints:
        return None
    model.optimizer.build(model.trainable_variables)
    model.load_weights(checkpoints[-1])
    return int(checkpoints[-1].name.removeprefix("epoch_").split(".")[0])


def finish(run: Path, monitor: str = "val_loss", mode: str = "min") -> dict[str, Any]:
    """Marks the training as finished.

    Args:
        run: The run directory.
        monitor: The metric that chose the best epoch.
        mode: `min` or `max`, the best value of that metric.

    Returns:
        The summary: `best_epoch`, the number of `epochs`, the validation metrics of the
        best epoch, and `minutes`.
    """
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


def summary(run: Path) -> dict[str, Any] | None:
    """Returns the summary that `finish` wrote, or None for an unfinished run."""
    path = run / "finished.json"
    return json.loads(path.read_text()) if path.exists() else None


def require_finished(run: Path) -> dict[str, Any]:
    """Returns the summary of a run that can be exported.

    Raises:
        BadInput: The run has no trained model, or its training has not finished.
    """
    if not (run / "model.keras").exists():
        raise BadInput(f"--run {run} holds no trained model; run train first")
    if result := summary(run):
        return result
    raise BadInput(f"--run {run} is not finished; run its train command again first")


def evaluation_folder(model: str, application: str) -> Path:
    """Returns the folder for the figures of an evaluation.

    Args:
        model: As `predictors.load_predictor` takes it.
        application: The name of the application.

    Returns:
        `evaluation` in a run directory; `runs/APPLICATION/evaluation` for other models.
    """
    is_run = (Path(model) / "model.keras").exists()
    return (Path(model) if is_run else Path("runs") / application) / "evaluation"


def read_history(run: Path) -> list[dict[str, float]]:
    """Returns one dictionary of metrics per epoch, the first epoch first."""
    path = run / "history.csv"
    if not path.exists():
        return []
    with path.open() as file:
        rows = [
            # Without validation its columns hold NA.
            {name: float(value) for name, value in row.items() if value != "NA"}
            for row in csv.DictReader(file)
        ]
    # An epoch that was killed between its row and its checkpoint ran again: keep the
    # last row.
    return list({row["epoch"]: row for row in rows}.values())


def best_epoch(run: Path, monitor: str, mode: str) -> dict[str, float]:
    """Returns the metrics of the best epoch so far, empty before the first."""
    choose = max if mode == "max" else min
    return choose(read_history(run), key=lambda row: row[monitor], default={})


def write_json(path: Path, content: Any) -> None:
    """Writes content as JSON in one step."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one step, so that a kill never leaves half of it."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


class BestModel(keras.callbacks.Callback):
    """Keeps the best model of a run.

    Unlike `keras.callbacks.ModelCheckpoint` it replaces the file in one step, so that
    a kill never leaves half of it.

    Args:
        path: The `.keras` file.
        monitor: The metric to compare.
        mode: `max` or `min`.
        best: The best value of earlier epochs, or None.
    """

    def __init__(self, path, monitor, mode, best=None):
        super().__init__()
        self.path = path
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.best = best

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Saves the model if it is the best so far."""
        value = {"epoch": epoch, **logs}[self.monitor]
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best = value
            unfinished = self.path.with_name("unfinished.keras")
            self.model.save(unfinished)
            os.replace(unfinished, self.path)


class Backup(keras.callbacks.Callback):
    """Keeps a checkpoint of the last epoch, weights and optimizer, for `restore`.

    Unlike `keras.callbacks.BackupAndRestore` it never leaves half a file.

    Args:
        folder: The directory of the checkpoint.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Writes the new checkpoint, then removes the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = list(self.folder.glob("epoch_*.weights.h5"))
        unfinished = self.folder / "unfinished.weights.h5"
        self.model.save_weights(unfinished, overwrite=True)
        os.replace(unfinished, self.folder / f"epoch_{epoch + 1:06d}.weights.h5")
        for path in earlier:
            path.unlink()


class EpochSeconds(keras.callbacks.Callback):
    """Adds the duration of every epoch to its metrics, in seconds."""

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Remembers the start of the epoch."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Adds `seconds` to the metrics."""
        logs["seconds"] = time.perf_counter() - self.start
