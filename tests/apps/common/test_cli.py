import dataclasses
import errno
import json
import re
import signal
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from apps.common import cli
from apps.common.errors import BadInput, ExportRefused
from apps.common.ranges import Count, Fraction, check_ranges


@dataclass(frozen=True)
class Config:
    """Settings."""

    # Data
    data: str
    """Where the data
    is."""
    data_licence: str = "not stated"
    """Whose data it is."""

    # Training
    epochs: Count = 1
    """Passes over the data."""
    photo_folder: str | None = None
    """Where the photographs are."""

    def __post_init__(self):
        check_ranges(Config, vars(self))


def tiny():
    """A tiny data set.

    python -m example train tiny
    """
    return Config("tiny")


def large():
    """A large data set."""
    return Config(data="data/large", data_licence="ours", epochs=9)


def evaluate(
    model: cli.Model,
    split: cli.Split = "test",
    least: Fraction | None = None,
    json: cli.Json = False,
):
    """Score something."""
    if model == "missing":
        raise BadInput("there is no missing")
    if model == "slow":
        raise KeyboardInterrupt
    if model == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "a.png")
    raise ExportRefused("too bad")


def export(run: cli.Run, to: cli.To = None):
    """Publish something."""
    return (to or run / "export") / "7"


SUMMARY = {
    "best_epoch": 2,
    "epochs": 3,
    "val_macro_recall": 0.9,
    "val_loss": 0.25,
    "minutes": 1.5,
}
THIS_FILE = __file__
ROOT = Path(__file__).parents[3]
HERE = "HERE"  # Stands for the working directory.


@pytest.fixture
def trained(monkeypatch):
    """Replaces the package's module `train`; lists what is trained, and where."""
    calls = []

    def train(config, run):
        calls.append((config, run))
        return SUMMARY

    package = types.SimpleNamespace(__doc__="An example.")
    module = types.SimpleNamespace(train=train)
    monkeypatch.setitem(sys.modules, "shop.example", package)
    monkeypatch.setitem(sys.modules, "shop.example.train", module)
    return calls


@pytest.fixture
def command(trained, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["program", *arguments])
        presets = {"tiny": tiny, "large": large}
        cli.main("shop.example", Config, presets, evaluate, export)

    handlers = {
        each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)
    }
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
        # The ending of a file is no part of the run's name.
        (["--data", THIS_FILE], Config(THIS_FILE), "runs/example/test_cli"),
        # The licence of a preset is that of its own data.
        (["tiny", "--data", "x"], Config("x"), "runs/example/x"),
        (["large", "--data", "x"], Config("x", epochs=9), "runs/example/x"),
        (["--run", "here"], Config("tiny"), "here"),
        # Paths are absolute, so that the model finds its data from anywhere.
        (["--data", "here.csv"], Config(f"{HERE}/here.csv"), "runs/example/here"),
        (["--data=../here/."], Config(HERE), "runs/example/here"),
        (["tiny", "--data=."], Config(HERE), "runs/example/here"),
        (
            ["--photo-folder", "photos"],
            Config("tiny", photo_folder=f"{HERE}/photos"),
            "runs/example/tiny",
        ),
        # The built-in data set has a name, whatever lies here.
        (["--data", "tiny"], Config("tiny"), "runs/example/tiny"),
    ],
)
def test_train_starts_from_a_preset_or_the_defaults(
    command, trained, arguments, config, run, tmp_path, monkeypatch
):
    here = tmp_path / "here"
    (here / "tiny").mkdir(parents=True)
    (here / "here.csv").touch()
    monkeypatch.chdir(here)
    folder = config.photo_folder and config.photo_folder.replace(HERE, str(here))
    data = config.data.replace(HERE, str(here))
    config = dataclasses.replace(config, data=data, photo_folder=folder)
    command("train", *arguments)
    assert trained == [(config, Path(run))]


def test_train_prints_its_summary_and_the_run(command, capsys):
    command("train")
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2 of 3 is kept, with validation macro recall 0.9000, loss 0.2500; "
        "1.5 minutes",
        "run: runs/example/tiny",
    ]


def test_the_summary_of_a_training_without_validation(capsys):
    cli.print_summary({"best_epoch": 3, "epochs": 3, "minutes": 0.1})
    assert capsys.readouterr().out == "epoch 3 of 3 is kept; 0.1 minutes\n"


def test_export_prints_what_it_published(command, capsys):
    command("export", "--run", "x")
    assert capsys.readouterr().out.splitlines() == [
        "model: x/export/7",
        "edge bundle: x/export/edge",
        "card: x/export/card.md",
    ]


def help_of(command, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        command(*arguments, "--help")
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_of_train_shows_settings_defaults_and_presets(command, capsys):
    text = help_of(command, capsys, "train", "large")
    for expected in (
        "python -m shop.example train [PRESET]",
        "Passes over the data. (default: 9)",
        "Settings.",
        "Where the data is. (default: data/large)",
        "Directory for checkpoints, logs and figures. (default: runs/example/large)",
        "tiny: A tiny data set.",
        "large: A large data set.",
        "The defaults shown are those of large. Add --data to see those for your own",
    ):
        assert expected in text
    groups = re.findall(r"(\w+) options", text)
    assert groups == ["data", "training", "output"]


def test_help_of_train_shows_the_defaults_for_own_data(command, capsys):
    text = help_of(command, capsys, "train", "--data", "mine")
    assert "The defaults shown are those for your own data." in text
    assert "Where the data is. (default: mine)" in text
    assert "Passes over the data. (default: 1)" in text
    text = help_of(command, capsys, "train", "large", "--data", "mine")
    assert "The defaults shown are those of large." in text
    assert "Add --data" not in text
    assert "Passes over the data. (default: 9)" in text


def test_the_version(command, capsys):
    command("--version")
    assert re.fullmatch(r"keras-apps \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_lists_the_verbs_and_their_flags(command, capsys):
    text = help_of(command, capsys)
    for expected in ("An example.", "--version", "Train a model", "Score something."):
        assert expected in text
    text = help_of(command, capsys, "evaluate")
    for expected in ("A run, a version", "{test,train,validation,all}", "as one JSON"):
        assert expected in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "larg"], 2, "no preset 'larg'; did you mean 'large'?"),
        (["train", "zzz"], 2, "choose from: tiny, large"),
        (["train", "--epoch", "3"], 2, "--epochs"),
        (["train", "--epochs", "many"], 2, "--epochs"),
        (
            ["train", "--epochs", "0"],
            2,
            "error: --epochs 0 must be from 1 to 1000000\n",
        ),
        (["evaluate", "--model", "missing"], 2, "error: there is no missing\n"),
        (
            ["evaluate", "--model", "x", "--least", "1.5"],
            2,
            "error: --least 1.5 must be from 0 to 1\n",
        ),
        (["evaluate", "--model", "x", "--least", "1"], 1, "error: too bad\n"),
        (["evaluate", "--model", "x"], 1, "error: too bad\n"),
        (["evaluate", "--model", "full"], 2, "error: a.png: No space left on device; "),
        (["evaluate", "--model", "slow"], 130, "\nstopped\n"),
        (["evaluate", "--model", "x", "--split", "tests"], 2, "--split"),
        (["evaluat"], 2, "evaluate"),
    ],
)
def test_mistakes_end_with_a_status_and_a_remedy(
    command, trained, capsys, arguments, status, message
):
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not trained


def test_a_stopped_training_says_from_where_it_resumes(
    command, trained, capsys, tmp_path, monkeypatch
):
    def train(config, run):
        (run / "backup").mkdir()
        (run / "backup/epoch_2_step_40_seconds_30.keras").touch()
        raise KeyboardInterrupt("in epoch 3 of 9")

    monkeypatch.setattr(sys.modules["shop.example.train"], "train", train)
    with pytest.raises(SystemExit) as stop:
        command("train", "--run", str(tmp_path / "run"))
    assert stop.value.code == 130
    assert capsys.readouterr().err == (
        "\nstopped in epoch 3 of 9; the same command resumes from the backup of "
        "step 40 of epoch 3\n"
    )


def test_a_report_is_one_line_of_json(capsys):
    report = {"accuracy": 0.5, "classes": {"schön": {"examples": 3}}}
    cli.print_json(report)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "schön" in out
    assert json.loads(out) == report


def test_the_list_of_the_applications():
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "apps", *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert not done.stderr
        return done.stdout

    text = run()
    for path in (ROOT / "apps").glob("*/__main__.py"):
        assert f"{path.parent.name} " in text
    assert "Sentiment analysis with LSTMs and attention." in text
    assert "python -m apps.NAME train --data" in text
    assert run("--version").startswith("keras-apps ")
