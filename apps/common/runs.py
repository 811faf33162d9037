"""The run directory: everything that one training writes.

runs/<app>/<name>/
├── config.json       the settings
├── held_out.json     the ids of the examples that were held out at random
├── classes.json      the names of the classes
├── model.keras       the best epoch so far
├── history.csv       the metrics of every epoch; curves.png draws them
├── backup/           the checkpoint from which an interrupted training resumes
├── logs/             for TensorBoard
├── lock              locked while a training uses the directory
└── finished.json     the best epoch, when the training has finished
"""

import csv
import dataclasses
import errno
import fcntl
import io
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import keras

from apps.common.errors import BadInput
from apps.common.progress import Clock, Progress

# A backup is written after every epoch, and within an epoch after so many seconds.
SECONDS_BETWEEN_BACKUPS = 300

AUTO = "auto"  # The value of a setting that the training chooses.

Config = TypeVar("Config")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps the run directory for one training; the system frees it after a kill.

    Makes the directory, and removes it at the end if nothing was written.

    Raises:
        BadInput: Another training uses the directory, or it is a file.
    """
    if run.is_file():
        raise BadInput(f"--run {run} is a file; choose a directory")
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f"another training uses {run}; wait until it has finished, or pass "
                "--run with a new directory"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):
                if os.listdir(run) == ["lock"]:
                    (run / "lock").unlink()
                    for folder in made:
                        folder.rmdir()


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
            if settings.get(name) not in (AUTO, recorded.get(name))
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


def with_choices(config: Config, run: Path) -> Config:
    """Returns the settings, with those that an interrupted training chose for `auto`.

    Args:
        config: The configuration; settings may be `auto`.
        run: The run directory. Before its `start` nothing is chosen.
    """
    if not (run / "config.json").exists():
        return config
    recorded = json.loads((run / "config.json").read_text())
    choices = {
        name: recorded[name]
        for name, value in dataclasses.asdict(config).items()  # type: ignore[call-overload]
        if value == AUTO
    }
    return dataclasses.replace(config, **choices)  # type: ignore[type-var]


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
    epochs: int,
    initial_epoch: int = 0,
    total_epochs: int | None = None,
    monitor: str = "val_loss",
    mode: str = "min",
    patience: int | None = None,
    max_minutes: float | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    **options: Any,
) -> None:
    """Trains one phase, or resumes it after an interruption.

    Args:
        model: A compiled Keras model.
        train_batches: A `tf.data.Dataset` of known length, to learn from.
        validation_batches: Batches that choose the best epoch; None keeps the last.
        run: The run directory.
        phase: The name of the phase; each phase has its own checkpoint.
        epochs: The number of the last epoch, those of earlier phases included.
        initial_epoch: Epochs of earlier phases. Defaults to 0.
        total_epochs: Epochs of all phases, which the remaining time is about. Defaults
            to `epochs`.
        monitor: The metric that chooses the best epoch. Defaults to `val_loss`.
        mode: `min` or `max`, the best value of that metric. Defaults to `min`.
        patience: Epochs without improvement after which the phase ends early. Defaults
            to None, never.
        max_minutes: Minutes after which the training ends early, with all phases.
            Earlier parts of an interrupted training count. Defaults to None, no limit.
        callbacks: Callbacks that run before those of the run directory, such as one
            that adds a metric.
        **options: As in `model.fit`, such as `class_weight`.
    """
    folder = run / "backup" / phase
    out_of_time = run / "backup" / "out_of_time"
    position = restore(model, folder)
    if (folder / "finished").exists() or out_of_time.exists():
        return
    if position:
        skip_epochs(train_batches, position.epochs)
    else:
        position = Position(initial_epoch)
    if validation_batches is None:
        monitor, mode = "epoch", "max"
    total_epochs = total_epochs or epochs
    history = read_history(run, position.epochs)
    clock = Clock(
        total_epochs,
        steps=len(train_batches),
        validation_steps=len(validation_batches or ()),
        epoch=position.epochs,
        step=position.steps,
        seconds_before=sum(row["seconds"] for row in history),
        seconds_in_epoch=position.seconds,
    )
    progress = Progress(clock, is_last_phase=epochs == total_epochs)
    # The order matters after a kill: an epoch enters the history only when its model
    # is saved, and counts as done only when everything is written.
    callbacks = [
        *callbacks,
        clock,
        BestModel(
            run / "model.keras",
            monitor,
            mode,
            best_epoch(history, monitor, mode).get(monitor),
        ),
        History(run),
        keras.callbacks.TensorBoard(run / "logs" / phase, write_graph=False),
        Backup(folder, clock),
    ]
    if patience and validation_batches is not None:
        callbacks.append(Patience(run, initial_epoch, monitor, mode, patience))
    callbacks.append(progress)
    if max_minutes:
        callbacks.append(TimeLimit(max_minutes, clock, progress, out_of_time))
    # An epoch that was interrupted ends without the batches that are done.
    parts = [(train_batches, position.epochs, epochs)]
    if position.steps:
        rest = train_batches.skip(position.steps)
        parts = [
            (rest, position.epochs, position.epochs + 1),
            (train_batches, position.epochs + 1, epochs),
        ]
    try:
        with closing(progress):
            for batches, first, last in parts:
                model.fit(
                    batches,
                    validation_data=validation_batches,
                    initial_epoch=first,
                    epochs=last,
                    callbacks=callbacks,
                    shuffle=False,  # The data set shuffles itself.
                    verbose=0,
                    **options,
                )
                if model.stop_training:
                    break
    except KeyboardInterrupt as stop:
        stop.args = (f"in epoch {clock.epoch + 1} of {total_epochs}",)
        raise
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "finished").touch()


def record_epoch(
    model: keras.Model,
    run: Path,
    epoch: int,
    logs: Mapping[str, float],
    is_best: bool = True,
) -> None:
    """Records an epoch that `fit` did not train.

    Args:
        model: The model after the epoch.
        run: The run directory.
        epoch: The number of the epoch, from 0.
        logs: Its metrics, and its duration as `seconds`.
        is_best: Whether it is the best so far, so that the model is kept. Defaults to
            True.
    """
    if is_best:
        with replacing(run / "model.keras") as unfinished:
            model.save(unfinished)
    History(run).on_epoch_end(epoch, logs)


def skip_epochs(batches: Any, epochs: int) -> None:
    """Brings the order of shuffled batches to that after so many epochs."""
    for _ in range(2 * epochs):  # Keras makes two iterators for each epoch.
        iter(batches)


class Position(NamedTuple):
    """How far a training has come.

    Attributes:
        epochs: The number of epochs done.
        steps: The number of steps done in the next epoch.
        seconds: The time that those steps took.
    """

    epochs: int
    steps: int = 0
    seconds: int = 0


def backups(folder: Path) -> list[tuple[Position, Path]]:
    """Returns the checkpoints in a folder and those below it, the latest last."""
    paths = folder.rglob("epoch_*_step_*_seconds_*.keras")
    return sorted(
        (Position(*map(int, re.findall(r"\d+", path.stem))), path) for path in paths
    )


def restore(model: keras.Model, folder: Path) -> Position | None:
    """Loads the latest checkpoint of a phase, weights and optimizer, into the model.

    Returns:
        The position of the checkpoint, or None if there is none.
    """
    checkpoints = backups(folder)
    if not checkpoints:
        return None
    position, path = checkpoints[-1]
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return position


def describe_stop(run: Path, where: str = "") -> str:
    """Returns a sentence that says from where a stopped training resumes.

    Args:
        run: The run directory.
        where: Where it stopped, such as `in epoch 3 of 12`.
    """
    stopped = f"stopped {where}".strip()
    checkpoints = backups(run / "backup")
    if not checkpoints:
        return f"{stopped}; there is no backup yet, so the same command starts again"
    epochs, steps, _ = checkpoints[-1][0]
    backup = f"step {steps} of epoch {epochs + 1}" if steps else f"epoch {epochs}"
    return f"{stopped}; the same command resumes from the backup of {backup}"


def finish(
    run: Path,
    monitor: str = "val_loss",
    mode: str = "min",
    scores: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Marks the training as finished.

    Args:
        run: The run directory.
        monitor: The metric that chose the best epoch.
        mode: `min` or `max`, the best value of that metric.
        scores: Entries of the summary that replace those of the best epoch, if another
            model than that epoch's was saved.

    Returns:
        The summary: `best_epoch`; `epochs`, the number of the last one, with those that
        a phase left out when it ended early; the validation metrics of the best epoch;
        and `minutes`.
    """
    history = read_history(run)
    if monitor not in history[-1]:  # Without validation the last epoch is kept.
        monitor, mode = "epoch", "max"
    best = best_epoch(history, monitor, mode)
    result = {
        "best_epoch": int(best["epoch"]) + 1,
        "epochs": int(history[-1]["epoch"]) + 1,
        **{name: best[name] for name in best if name.startswith("val_")},
        **(scores or {}),
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


def evaluation_folder(model: str, application: str, data: str | None = None) -> Path:
    """Returns the folder for the figures of an evaluation.

    Args:
        model: As `predictors.load_predictor` takes it.
        application: The name of the application.
        data: The name of other data than the model was trained on. Defaults to None,
            the data of the training.

    Returns:
        `evaluation` in a run directory; `runs/APPLICATION/evaluation` for other models.
        Other data has a folder of its own beside it, such as `evaluation_NAME`.
    """
    is_run = (Path(model) / "model.keras").exists()
    parent = Path(model) if is_run else Path("runs") / application
    if data is None:
        return parent / "evaluation"
    # The last name alone may be `test.csv` or `images`.
    parts = Path(data).resolve().parts[-2:] if Path(data).exists() else [data]
    return parent / re.sub(r"[^\w.-]", "_", "_".join(["evaluation", *parts]))


def read_history(run: Path, before: float = math.inf) -> list[dict[str, float]]:
    """Returns one dictionary of metrics per epoch, the first epoch first.

    Args:
        run: The run directory.
        before: Leaves out this epoch and later ones. Defaults to none.
    """
    path = run / "history.csv"
    if not path.exists():
        return []
    with path.open() as file:
        rows = [
            # Without validation its columns hold NA.
            {name: float(value) for name, value in row.items() if value != "NA"}
            for row in csv.DictReader(file)
        ]
    return [row for row in rows if row["epoch"] < before]


def best_epoch(
    history: Iterable[Mapping[str, float]], monitor: str, mode: str
) -> Mapping[str, float]:
    """Returns the metrics of the best epoch of a history, empty before the first."""
    choose = max if mode == "max" else min
    return choose(history, key=lambda row: row[monitor], default={})


def write_json(path: Path, content: Any) -> None:
    """Writes content as JSON in one step."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one step: a kill or a full disk never leaves half of it."""
    if path.exists() and not path.is_file():  # A device, such as /dev/null.
        path.write_bytes(content)
        return
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replaces a file in one step, so that a kill never leaves half of it.

    Yields:
        The unfinished file, which takes the place of the other at the end.

    Raises:
        OSError: It cannot be written; the file is as it was.
    """
    unfinished = path.with_name(f"unfinished_{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


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
            with replacing(self.path) as unfinished:
                self.model.save(unfinished)


class History(keras.callbacks.Callback):
    """Writes the metrics of every epoch to `history.csv`.

    Unlike `keras.callbacks.CSVLogger` it never leaves half a row, and an epoch that ran
    again after a kill has one row.

    Args:
        run: The run directory.
    """

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Adds the row of the epoch."""
        rows = [*read_history(self.run, before=epoch), {"epoch": epoch, **logs}]
        names = sorted({name for row in rows for name in row} - {"epoch"})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *names], restval="NA")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
        write_bytes(self.run / "history.csv", text.getvalue().encode())


class Backup(keras.callbacks.Callback):
    """Keeps the latest checkpoint, weights and optimizer, for `restore`.

    Unlike `keras.callbacks.BackupAndRestore` it never leaves half a file.

    Args:
        folder: The directory of the checkpoint.
        clock: The `Clock` of the training.
    """

    def __init__(self, folder, clock):
        super().__init__()
        self.folder = folder
        self.clock = clock
        self.last = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Writes a checkpoint within the epoch if the last one is too old."""
        is_due = time.perf_counter() - self.last >= SECONDS_BETWEEN_BACKUPS
        if is_due and self.clock.step < self.clock.steps:
            seconds = int(self.clock.seconds_in_epoch)
            self.save(Position(self.clock.epoch, self.clock.step, seconds))

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Writes the checkpoint of the epoch."""
        self.save(Position(epoch + 1))

    def save(self, position) -> None:
        """Writes the new checkpoint, then removes the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        epochs, steps, seconds = position
        # A full disk crashes the process while it writes `.weights.h5`.
        name = f"epoch_{epochs:06}_step_{steps:08}_seconds_{seconds:06}.keras"
        with replacing(self.folder / name) as unfinished:
            self.model.save(unfinished)
        for path in self.folder.glob("*.keras"):
            if path.name != name:
                path.unlink()
        self.last = time.perf_counter()


class Patience(keras.callbacks.EarlyStopping):
    """Early stopping that also counts the epochs before an interruption.

    Args:
        run: The run directory.
        initial_epoch: Epochs of earlier phases. The best of them is to be improved.
        monitor: The metric to compare.
        mode: `max` or `min`.
        patience: Epochs without improvement after which the training stops.
    """

    def __init__(self, run, initial_epoch, monitor, mode, patience):
        best = best_epoch(read_history(run, initial_epoch), monitor, mode)
        super().__init__(
            monitor, patience=patience, mode=mode, baseline=best.get(monitor)
        )
        self.run = run
        self.initial_epoch = initial_epoch

    def on_train_begin(self, logs=None) -> None:
        """Repeats the decisions after the epochs of this phase that are done."""
        super().on_train_begin(logs)
        for row in read_history(self.run):
            if row["epoch"] >= self.initial_epoch:
                self.on_epoch_end(int(row["epoch"]), row)


class TimeLimit(keras.callbacks.Callback):
    """Ends a training in time, within an epoch if need be.

    The epoch in progress is validated, so that its model can be the best.

    Args:
        max_minutes: Minutes of the whole training.
        clock: The `Clock` of the training.
        progress: Prints the reason.
        marker: The file to make at the end, for the phases that follow.
    """

    def __init__(self, max_minutes, clock, progress, marker):
        super().__init__()
        self.max_minutes = max_minutes
        self.clock = clock
        self.progress = progress
        self.marker = marker
        self.is_over = False

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Ends the epoch if there is just time for its validation."""
        seconds = self.clock.seconds + self.clock.seconds_of_validation
        if seconds >= 60 * self.max_minutes:
            self.is_over = self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Ends the training if the time is over."""
        if self.is_over or self.clock.seconds >= 60 * self.max_minutes:
            self.model.stop_training = True
            self.marker.touch()
            self.progress.write(
                f"--max-minutes {self.max_minutes:g} is reached in epoch {epoch + 1}"
            )
