"""Somebody's pairs of sentences, from files to a served model and a device."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apps.common import saved_models
from apps.common.predictors import load_predictor
from apps.translation.data import load_split
from apps.translation.model import load_translator
from tests.apps.translation.conftest import make_pairs, write_table
from tests.conftest import run_command
from tests.device import make_device
from tests.model_server import serve

TINY = (
    *("--vocabulary-size", 60, "--embedding-size", 16, "--encoder-units", 8),
    *("--decoder-units", 16, "--epochs", 5, "--batch-size", 4, "--beam-size", 2),
    *("--learning-rate", "2e-2", "--validation-fraction", "0.1"),
)


def command(*arguments):
    return run_command("translation", *arguments)


@pytest.fixture(params=["table", "lines"])
def own_data(request, tmp_path):
    """Flags that name own data, in a table with columns of its own, or in two files."""
    if request.param == "table":
        write_table(tmp_path / "mine.csv", 120, ("auf deutsch", "in English"))
        columns = ("--source-column", "auf deutsch", "--target-column", "in English")
        return ("--data", "mine.csv", *columns)
    sources, targets = zip(*make_pairs(120), strict=True)
    (tmp_path / "mine.de").write_text("\n".join(sources) + "\n")
    (tmp_path / "mine.en").write_text("\n".join(targets) + "\n")
    return ("--data", "mine.de", "--target-data", "mine.en")


@pytest.fixture
def settings(own_data):
    """Each kind of data with another kind of model."""
    if "--target-data" in own_data:
        return ("--attention", "none", "--teacher-forcing", 0.5)
    return ("--attention", "multiplicative", "--no-joint-vocabulary")


def test_own_pairs_go_all_the_way(own_data, settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/mine")
    train = ["train", *own_data, *TINY, *settings, "--run", run]
    assert command(*train) == 0
    assert "validation BLEU" in capsys.readouterr().out
    # Once finished, the same command only tells so.
    modified = (run / "model.keras").stat().st_mtime_ns
    assert command(*train) == 0
    assert (run / "model.keras").stat().st_mtime_ns == modified

    def evaluate(model, *arguments):
        capsys.readouterr()
        assert command("evaluate", "--model", model, "--json", *arguments) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    report = evaluate(run)
    assert report["sentences"] == 30  # A quarter of 120.
    names = {path.name for path in (run / "evaluation").iterdir()}
    assert names == {"bleu_by_length.png", "worst.png", "typical.png"}

    Path("texts.txt").write_text("zwanzig\nzweihunderteins\n")
    predict = ["predict", "vierzig", "--file", "texts.txt", "--model"]
    assert command(*predict, run) == 0
    answers = capsys.readouterr().out.splitlines()
    assert answers[0::2][:3] == ["vierzig", "zwanzig", "zweihunderteins"]
    assert Path("runs/translation/predictions.png").exists()

    # What is hardly trained may well change in other precisions.
    monkeypatch.setattr("apps.translation.export.CHANGED_TRANSLATIONS", 0.2)
    assert command("export", "--run", run, "--variants", "float32", "float16") == 0
    out = capsys.readouterr().out
    assert "card: saved_models/translation/card.md" in out
    served = Path("saved_models/translation")
    has_own_target = "--no-joint-vocabulary" in settings
    assert (served / "edge/target.model").exists() == has_own_target
    card = json.loads((served / "card.json").read_text())
    assert card["config"]["target_data"] in (None, "mine.en")
    if not has_own_target:
        return  # What follows is alike for every kind of data and model.

    again = evaluate(served / "edge/model.tflite")
    assert again["chrf"] == pytest.approx(report["chrf"], rel=0.2, abs=2)
    with serve("translation", served / "1") as (rest, _):
        # A server does not tell what it was trained on.
        again = evaluate(rest, *own_data)
        assert again["sentences"] == 120
    assert command(*predict, served / "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert command("predict", "--model", served / "edge") == 0  # Some test sentences.


@pytest.fixture(scope="module")
def device(exported, tmp_path_factory):
    return make_device(exported / "edge", tmp_path_factory.mktemp("device"))


def test_on_a_device_texts_have_the_translations_that_they_have_on_a_server(
    device, exported, config
):
    bundle, python = device
    missing = subprocess.run(
        [python, "-c", "import tensorflow"], capture_output=True, text=True
    )
    assert "No module named 'tensorflow'" in missing.stderr
    requirements = (bundle / "requirements.txt").read_text().splitlines()
    assert requirements == [*saved_models.REQUIREMENTS, "sentencepiece>=0.2"]

    texts = load_split(config, "test").sources[:30]
    texts += ["你好 zwei", " ".join(texts), "zwo\u0308lf \u00adacht"]
    for flags, signature in (((), "serving_default"), (("--greedy",), "greedy")):
        done = subprocess.run(
            [python, bundle / "run.py", "-", *flags],
            input="\n".join(texts),
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        assert len(lines) == len(texts)
        answers = load_predictor(str(exported / "1"), None, signature)(texts)
        served = [translation.decode() for translation in answers["translations"]]
        assert np.mean([a == b for a, b in zip(lines, served, strict=True)]) >= 0.9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "texts"),
        ([" "], "a text is empty; write at least one word"),
        (["-"], "a text is empty; write at least one word"),
        (["zwei", "--model", "nowhere.tflite"], "there is no model nowhere.tflite"),
    ],
)
def test_the_bundle_refuses_what_is_no_text(arguments, says, device):
    bundle, python = device
    done = subprocess.run(
        [python, bundle / "run.py", *arguments],
        input="\n \n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_bundle_reads_bytes_that_are_no_text(device):
    bundle, python = device
    junk = b"zwei\xff\xc3 drei"
    command = [str(python).encode(), str(bundle / "run.py").encode()]
    done = subprocess.run([*command, junk], capture_output=True, check=True)
    assert done.stdout.strip()
    piped = subprocess.run(
        [*command, b"-"], input=junk, capture_output=True, check=True
    )
    assert piped.stdout == done.stdout


def test_a_killed_training_continues(tmp_path):
    table = write_table(tmp_path / "mine.tsv", 200)
    arguments = ["--data", table, *TINY, "--epochs", 3, "--run", tmp_path / "run"]
    line = [sys.executable, "-m", "apps.translation", "train", *map(str, arguments)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seen = b""
    while not re.search(rb"Epoch 2/3.*?\b[1-9]\d*/\d", seen, re.DOTALL):
        part = os.read(process.stdout.fileno(), 1 << 12)
        assert part, seen  # It ended by itself.
        seen += part
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    run = tmp_path / "run"
    assert not (run / "finished.json").exists()
    done = len((run / "history.csv").read_text().splitlines()) - 1
    assert 1 <= done < 3
    tokenizer = (run / "source.model").read_bytes()

    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"Epoch {done + 1}/3" in again.stdout
    assert f"Epoch {done}/3" not in again.stdout
    history = (run / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in history[1:]] == ["0", "1", "2"]
    assert "val_bleu" in json.loads((run / "finished.json").read_text())
    assert (run / "source.model").read_bytes() == tokenizer
    assert load_translator(run).predictor("greedy")(["zwei"])["translations"][0]


def test_help_tells_every_flag():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "apps.translation", "train", "-h"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--target-data" in done.stdout
    assert "--length-penalty" in done.stdout
    # It answers at once, for nothing slow is imported.
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"tensorflow", "keras"} & imported
