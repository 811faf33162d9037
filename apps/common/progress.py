"""The progress of a training: its time, one line per epoch, and a progress bar."""

import time
from collections.abc import Mapping

import keras
from tqdm import tqdm

# Steps that trace the model and fill buffers; they say nothing about the others.
WARM_UP_STEPS = 10
# After so many steps the time of the whole training is printed.
STEPS_BEFORE_ESTIMATE = 50


class Clock(keras.callbacks.Callback):
    """Measures a training, and adds the `seconds` of every epoch to its metrics.

    Args:
        epochs: Epochs of the whole training.
        steps: Steps of an epoch.
        validation_steps: Steps of its validation. They count like training steps until
            a validation was measured.
        epoch: Epochs done earlier.
        step: Steps done earlier in the epoch that was interrupted.
        seconds_before: Seconds that the epochs done earlier took.
        seconds_in_epoch: Seconds that the steps of the interrupted epoch took.

    Attributes:
        epoch: Epochs done.
        step: Steps done in this epoch.
    """

    def __init__(
        self,
        epochs: int,
        steps: int,
        validation_steps: int = 0,
        epoch: int = 0,
        step: int = 0,
        seconds_before: float = 0.0,
        seconds_in_epoch: float = 0.0,
    ):
        super().__init__()
        self.epochs = epochs
        self.steps = steps
        self.validation_steps = validation_steps
        self.epoch = epoch
        self.step = step
        self.steps_here = 0
        self._before = seconds_before
        self._in_epoch = seconds_in_epoch
        self._measured = 0.0  # Seconds of the steps after the first ones.
        self._validation: float | None = None
        self._start = self._last = time.perf_counter()

    @property
    def seconds_in_epoch(self) -> float:
        """Seconds of this epoch, interruptions left out."""
        return self._in_epoch + time.perf_counter() - self._start

    @property
    def seconds(self) -> float:
        """Seconds of the whole training so far, interruptions left out."""
        return self._before + self.seconds_in_epoch

    @property
    def seconds_per_step(self) -> float | None:
        """Mean seconds of a step, or None during the first ones."""
        steps = self.steps_here - WARM_UP_STEPS
        return self._measured / steps if steps > 0 else None

    @property
    def seconds_of_validation(self) -> float:
        """Seconds of the last validation; before the first one, a guess."""
        if self._validation is None:
            return self.validation_steps * (self.seconds_per_step or 0.0)
        return self._validation

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of the training, or None during the first steps."""
        if self.seconds_per_step is None:
            return None
        epochs = self.epochs - self.epoch
        steps = epochs * self.steps - self.step
        return steps * self.seconds_per_step + epochs * self.seconds_of_validation

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Remembers the start of the first step."""
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Counts and measures the step."""
        now = time.perf_counter()
        self.step += 1
        self.steps_here += 1
        if self.steps_here > WARM_UP_STEPS:
            self._measured += now - self._last
        self._last = now

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Counts the epoch, and adds `seconds` to its metrics."""
        logs["seconds"] = self.seconds_in_epoch
        self._before += logs["seconds"]
        self._validation = time.perf_counter() - self._last
        self.epoch = epoch + 1
        self.step, self._in_epoch = 0, 0.0
        self._start = time.perf_counter()


class Progress(keras.callbacks.Callback):
    """Prints one line per epoch, and after 50 steps the time of the whole training.

    A progress bar shows the remaining time if there is a terminal; `close` removes it.

    Args:
        clock: The `Clock` of the training, whose callback runs before this one.
        is_last_phase: Whether no phase follows, whose steps may take longer.
    """

    def __init__(self, clock: Clock, is_last_phase: bool = True):
        super().__init__()
        self.clock = clock
        self.is_last_phase = is_last_phase
        self.bar = tqdm(
            total=clock.epochs * clock.steps,
            initial=clock.epoch * clock.steps + clock.step,
            bar_format="{desc} {percentage:3.0f}%|{bar}|",
            leave=False,
            disable=None,  # Unless there is a terminal.
        )

    def close(self) -> None:
        """Removes the progress bar."""
        self.bar.close()

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Shows the number of the epoch and the remaining time."""
        text = f"epoch {self.clock.epoch + 1} of {self.clock.epochs}"
        left = self.clock.seconds_left
        if left is not None:
            text += f", {duration(left)} left"
            if self.clock.steps_here == STEPS_BEFORE_ESTIMATE:
                about = "about" if self.is_last_phase else "at least"
                total = duration(self.clock.seconds + left)
                self.write(f"{about} {total} for {self.clock.epochs} epochs")
        self.bar.set_description_str(text, refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Prints the metrics of the epoch, its time, and the remaining time."""
        parts = [describe(logs), duration(logs["seconds"])]
        left = self.clock.seconds_left
        if left and not self.model.stop_training:
            parts.append(f"{duration(left)} left")
        self.write(f"epoch {epoch + 1} of {self.clock.epochs}: {'; '.join(parts)}")

    def write(self, line: str) -> None:
        """Prints a line above the progress bar."""
        with self.bar.external_write_mode():
            print(line, flush=True)


def describe(logs: Mapping[str, float]) -> str:
    """Returns the metrics of an epoch as a text, those of the validation last."""
    names = sorted(
        logs.keys() - {"seconds"},
        key=lambda name: (name.removeprefix("val_") != "loss", name),
    )
    texts = {
        name: f"{name.removeprefix('val_').replace('_', ' ')} {logs[name]:.4f}"
        for name in names
    }
    training = [text for name, text in texts.items() if not name.startswith("val_")]
    validation = [text for name, text in texts.items() if name.startswith("val_")]
    return "; ".join(
        [", ".join(training)]
        + (["validation " + ", ".join(validation)] if validation else [])
    )


def duration(seconds: float) -> str:
    """Returns a time as people say it: `34 s`, `5 min` or `2 h 10 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
