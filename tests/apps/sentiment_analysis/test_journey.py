"""What somebody's customers said, from a table to a served model and a device."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apps.common import saved_models
from apps.common.predictors import in_batches, load_predictor
from apps.sentiment_analysis.config import sentences
from apps.sentiment_analysis.data import load_split, make_sentences
from apps.sentiment_analysis.model import load_classifier
from tests.conftest import run_command
from tests.device import make_device
from tests.model_server import serve

SMALL = (
    *("--units", 16, "--embedding-size", 16, "--attention-units", 8, "--patience", 9),
    *("--epochs", 9, "--batch-size", 4, "--learning-rate", "1e-2"),
)


def command(*arguments):
    return run_command("sentiment_analysis", *arguments)


def test_own_texts_go_all_the_way(own_table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/mine")
    train = ["train", "--data", own_table, *SMALL, "--run", run]
    assert command(*train) == 0
    assert (run / "curves.png").exists()
    assert list((run / "logs").rglob("events.out.tfevents*"))
    # Once finished, the same command only tells so.
    modified = (run / "model.keras").stat().st_mtime_ns
    assert command(*train) == 0
    assert (run / "model.keras").stat().st_mtime_ns == modified

    def evaluate(model, *arguments):
        capsys.readouterr()
        assert command("evaluate", "--model", model, "--json", *arguments) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    report = evaluate(run)
    assert report["examples"] == 9  # A quarter of 36.
    assert report["macro_recall"] >= 0.85
    assert list(report["classes"]) == ["complaint", "praise", "question"]
    assert {path.name for path in (run / "evaluation").iterdir()} == {
        "confusion_matrix.png",
        "reliability.png",
        "worst_mistakes.png",
    }

    Path("texts.txt").write_text("I love it 😍\nHow do I switch it off?\n")
    predict = ["predict", "The lamp is broken", "--file", "texts.txt"]
    assert command(*predict, "--model", run) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:3]] == ["complaint", "praise", "question"]
    assert out[1].endswith(": I love it 😍")
    assert Path("runs/sentiment_analysis/predictions.png").exists()

    assert command("export", "--run", run) == 0
    out = capsys.readouterr().out
    assert "card: saved_models/sentiment_analysis/card.md" in out
    served = Path("saved_models/sentiment_analysis")
    with serve("sentiment_analysis", served / "1") as addresses:
        for model in (served / "1", served / "edge", served / "edge/float32.tflite"):
            again = evaluate(model)
            assert again["macro_recall"] == pytest.approx(report["macro_recall"])
        for address in addresses:  # A server does not tell what it was trained on.
            again = evaluate(address, "--data", own_table)
            assert again["examples"] == 36
            assert again["macro_recall"] >= 0.85
    assert command("predict", "--model", served / "1") == 0  # Some of its test texts.
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_all_five_engines_answer_alike(run, exported):
    texts = ["", "@me 😀 &amp; &#39; caf\u0301e", *dict(make_sentences(70, seed=3))]

    def ask(where):
        answers = in_batches(load_predictor(str(where), load_classifier), texts)
        assert (np.diff(answers["scores"], axis=1) <= 0).all()
        order = answers["classes"].astype(bytes).argsort(axis=1)
        scores = np.take_along_axis(answers["scores"], order, axis=1)
        return scores, answers["tokens"].tolist(), answers["attention"]

    scores, tokens, attention = ask(run)
    assert scores.shape == (72, 3)
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-4)
    float32 = exported / "edge/float32.tflite"
    with serve("sentiment_analysis", exported / "1") as (rest, grpc):
        for where in (exported / "1", float32, rest, grpc):
            mine = ask(where)
            np.testing.assert_allclose(mine[0], scores, atol=1e-3)
            assert mine[1] == tokens
            np.testing.assert_allclose(mine[2], attention, atol=1e-3)


def test_the_tensors_signature_takes_numbers_of_pieces(run, exported):
    import tensorflow as tf

    tokens = tf.constant([[5, 9, 7, 3], [8, 6, 0, 0]])
    loaded = tf.saved_model.load(exported / "1")
    answers = loaded.signatures["tensors"](tokens=tokens)
    expected = load_classifier(run).tensors(tokens)
    for name in ("scores", "attention"):
        np.testing.assert_allclose(answers[name], expected[name], atol=1e-5)


@pytest.fixture(scope="module")
def device(exported, tmp_path_factory):
    return make_device(exported / "edge", tmp_path_factory.mktemp("device"))


def test_the_bundle_runs_without_tensorflow(device):
    bundle, python = device
    requirements = (bundle / "requirements.txt").read_text().splitlines()
    assert requirements == [*saved_models.REQUIREMENTS, "sentencepiece>=0.2"]
    missing = subprocess.run(
        [python, "-c", "import tensorflow"], capture_output=True, text=True
    )
    assert "No module named 'tensorflow'" in missing.stderr

    # Seconds from start to answer and megabytes held, as the process itself sees them.
    program = (
        "import runpy, sys, time\n"
        "sys.argv = ['run.py', *sys.argv[1:]]\n"
        "runpy.run_path('run.py', run_name='__main__')\n"
        "print(time.clock_gettime(time.CLOCK_MONOTONIC))\n"
        "status = open('/proc/self/status').read().split()\n"
        "print(int(status[status.index('VmHWM:') + 1]) / 1024)\n"
    )
    durations = []
    for _ in range(5):
        start = time.clock_gettime(time.CLOCK_MONOTONIC)
        done = subprocess.run(
            [python, "-c", program, "the soup was so good"],
            cwd=bundle,
            capture_output=True,
            text=True,
            check=True,
        )
        answer, end, megabytes = done.stdout.splitlines()
        durations.append(float(end) - start)
        assert re.match(r"positive 0\.\d{4}\t", answer)
        assert answer.endswith("\tthe soup was so good")
        assert float(megabytes) <= 200
    assert min(durations) <= 1.0


def test_on_a_device_texts_have_the_classes_that_they_have_on_a_server(
    device, exported
):
    bundle, python = device
    texts = load_split(sentences(), "test")[0].texts[:200]
    texts += ["SOOOO GOOD!!! 😀👍🏽", "@me &amp; http://a.b/c", "你好", "cafe\u0301"]
    done = subprocess.run(
        [python, bundle / "run.py", "-"],
        input="\n".join(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[-1] for line in lines] == texts
    answers = in_batches(load_predictor(str(exported / "1"), None), texts)
    served = [row[0].decode() for row in answers["classes"]]
    same = [
        line[0].split()[0] == name for line, name in zip(lines, served, strict=True)
    ]
    assert np.mean(same) >= 0.99


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "texts"),
        ([" "], "a text is empty; write at least one word"),
        (["-"], "a text is empty; write at least one word"),
        (["good", "--model", "nowhere.tflite"], "there is no model nowhere.tflite"),
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
    junk = b"the soup was so \xff\xc3 good"
    done = subprocess.run(
        [str(python).encode(), str(bundle / "run.py").encode(), junk],
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b"positive ")
    piped = subprocess.run(
        [python, bundle / "run.py", "-"], input=junk, capture_output=True, check=True
    )
    assert piped.stdout.split(b"\t")[0] == done.stdout.split(b"\t")[0]


def test_a_killed_training_continues(tmp_path):
    arguments = ["--epochs", "3", "--units", "8", "--batch-size", "64"]
    arguments = ["sentences", *arguments, "--run", tmp_path / "run"]
    line = [sys.executable, "-m", "apps.sentiment_analysis", "train", *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seen = b""
    while not re.search(rb"Epoch 2/3.*?[12]\d/\d\d", seen, re.DOTALL):
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
    tokenizer = (run / "tokenizer.model").read_bytes()

    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"Epoch {done + 1}/3" in again.stdout
    assert f"Epoch {done}/3" not in again.stdout
    history = (run / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in history[1:]] == ["0", "1", "2"]
    summary = json.loads((run / "finished.json").read_text())
    assert summary["val_macro_recall"] >= 0.4  # By chance it were a third.
    assert (run / "tokenizer.model").read_bytes() == tokenizer
    assert load_predictor(str(run), load_classifier)


def test_help_answers_at_once():
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "apps.sentiment_analysis", "train", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        durations.append(time.perf_counter() - start)
    assert min(durations) <= 1.0
    assert "--word-vectors" in done.stdout
    assert "(default: 2e-3)" in done.stdout or "(default: 0.01)" in done.stdout
