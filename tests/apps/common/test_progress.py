import io
import re
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from apps.common import progress
from apps.common.progress import Clock, Progress, describe, duration

X = np.zeros((32, 4), "float32")
Y = np.zeros((32, 1), "float32")


class Seconds(keras.callbacks.Callback):
    """Lets the first steps take nine seconds, later ones one, a validation two."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.now += 9 if self.steps <= progress.WARM_UP_STEPS else 1

    def on_test_end(self, logs=None):
        self.now += 2


@pytest.fixture
def train(monkeypatch):
    """Trains epochs of four steps, which take 6 seconds but for the first ones."""

    def fit(epochs, **options):
        seconds = Seconds()
        fake = SimpleNamespace(perf_counter=lambda: seconds.now)
        monkeypatch.setattr(progress, "time", fake)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        clock = Clock(epochs, steps=4, validation_steps=4)
        shown = Progress(clock, **options)
        model.fit(
            *(X, Y),
            validation_data=(X, Y),
            batch_size=8,
            epochs=epochs,
            callbacks=[seconds, clock, shown],
            verbose=0,
        )
        shown.close()

    return fit


def test_every_epoch_has_one_line(train, capfd):
    train(epochs=20)
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    metrics = "loss 0.0000; validation loss 0.0000"
    assert lines[:4] == [
        f"epoch 1 of 20: {metrics}; 38 s",
        f"epoch 2 of 20: {metrics}; 38 s",
        f"epoch 3 of 20: {metrics}; 22 s; 2 min left",
        f"epoch 4 of 20: {metrics}; 6 s; 96 s left",
    ]
    assert lines[12] == "about 3 min for 20 epochs"
    assert lines[-1] == f"epoch 20 of 20: {metrics}; 6 s"
    assert len(lines) == 21


def test_the_time_of_later_phases_may_be_longer(train, capsys):
    train(epochs=20, is_last_phase=False)
    assert "\nat least 3 min for 20 epochs\n" in capsys.readouterr().out


def test_a_terminal_shows_a_bar_with_the_remaining_time(train, capsys, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    train(epochs=20)
    assert re.search(r"epoch 1 of 20   \d%\|", terminal.getvalue())
    assert terminal.getvalue().endswith("\r")  # The bar is removed.
    out = capsys.readouterr().out
    assert "\r" not in out
    assert len(out.splitlines()) == 21


def test_metrics_are_described_with_the_loss_first():
    logs = {"accuracy": 0.5, "loss": 2.0, "seconds": 3.0, "val_macro_recall": 0.25}
    assert (
        describe(logs) == "loss 2.0000, accuracy 0.5000; validation macro recall 0.2500"
    )
    assert describe({"loss": 1.0}) == "loss 1.0000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (34.4, "34 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (3569, "59 min"),
        (3599, "1 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text
