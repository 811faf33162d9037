from dataclasses import dataclass
from pathlib import Path

import pytest

from apps.common import cli
from apps.common.errors import BadInput, ExportRefused


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: str
    """Where the data is."""
    data_licence: str = "not stated"
    """Whose data it is."""
    epochs: int = 1
    """Passes over the data."""


def tiny():
    """A tiny set."""
    return Config("tiny")


def large():
    """A large set."""
    return Config(data="data/large", data_licence="ours", epochs=9)


CALLS = []
FILE = __file__  # Its ending is no part of the run's name.


def train(config: Config, run: Path):
    """Train something."""
    CALLS.append((config, run))


def evaluate(model: str):
    """Score something.

    Args:
        model: Where it is.
    """
    if model == "missing":
        raise BadInput("there is no missing")
    raise ExportRefused("too bad")


@pytest.fixture
def command(monkeypatch):
    def run(*arguments):
        CALLS.clear()
        monkeypatch.setattr("sys.argv", ["program", *arguments])
        presets = {"tiny": tiny, "large": large}
        cli.main("example", train, evaluate, presets=presets, own_data=Config)

    return run


@pytest.mark.parametrize(
    ("arguments", "config", "run"),
    [
        ([], Config("tiny"), "runs/example/tiny"),
        (["large"], Config("data/large", "ours", 9), "runs/example/large"),
        (
            ["large", "--epochs", "2"],
            Config("data/large", "ours", 2),
            "runs/example/large",
        ),
        (["--data", "my/photos"], Config("my/photos"), "runs/example/photos"),
        (["--data=tfds:cats"], Config("tfds:cats"), "runs/example/tfds_cats"),
        (["--data", FILE], Config(FILE), "runs/example/test_cli"),
        (["tiny", "--data", "x"], Config("x"), "runs/example/x"),
        (["large", "--data", "x"], Config("x", epochs=9), "runs/example/x"),
        (["--run", "here"], Config("tiny"), "here"),
    ],
)
def test_train_starts_from_a_preset(command, arguments, config, run):
    command("train", *arguments)
    assert [(config, Path(run))] == CALLS


def test_help_shows_every_field_with_its_default_and_the_presets(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command("train", "large", "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for expected in ("Passes over the data. (default: 9)", "--data", "A tiny set."):
        assert expected in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "larg"], 2, "no preset 'larg'; did you mean 'large'?"),
        (["train", "zzz"], 2, "choose from: tiny, large"),
        (["train", "--epoch", "3"], 2, "--epochs"),
        (["train", "--epochs", "many"], 2, "--epochs"),
        (["evaluate", "--model", "missing"], 2, "error: there is no missing\n"),
        (["evaluate", "--model", "x"], 1, "error: too bad\n"),
        (["evaluat"], 2, "evaluate"),
    ],
)
def test_mistakes_end_with_a_status_and_a_hint(
    command, capsys, arguments, status, message
):
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == status
    assert message in capsys.readouterr().err


def test_settings_outside_their_range_are_refused_by_their_flag():
    @dataclass
    class Settings:
        max_tokens: int = 3
        patience: int | None = None

    cli.check_ranges(Settings(), max_tokens=(1, 3), patience=(1, 2))
    with pytest.raises(BadInput, match="--max-tokens 0 must be from 1 to 3"):
        cli.check_ranges(Settings(0), max_tokens=(1, 3))
