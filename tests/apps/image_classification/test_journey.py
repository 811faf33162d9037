"""Somebody's own photos, from folders to a served model and a device."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apps.common.predictors import load_predictor
from apps.image_classification.model import load_classifier
from tests.conftest import run_command
from tests.device import make_device
from tests.model_server import serve

SMALL = ["--backbone", "small_resnet", "--weights", "None", "--image-size", "24"]


def command(*arguments):
    return run_command("image_classification", *arguments)


def test_own_photos_go_all_the_way(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "--data", photos, *SMALL, "--epochs", 10, "--batch-size", 8]
    assert command(*train, "--learning-rate", "3e-3") == 0
    run = Path("runs/image_classification/photos")
    assert (run / "curves.png").exists()
    assert list((run / "logs").rglob("events.out.tfevents*"))
    # Once finished, the same command only tells so.
    modified = (run / "model.keras").stat().st_mtime_ns
    assert command(*train, "--learning-rate", "3e-3") == 0
    assert (run / "model.keras").stat().st_mtime_ns == modified

    capsys.readouterr()
    assert command("evaluate", "--model", run, "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["examples"] == 6  # A quarter of 24.
    assert report["accuracy"] == 1.0
    assert report["seconds"] > 0
    assert list(report["classes"]) == ["blue", "green", "red"]
    assert {path.name for path in (run / "evaluation").iterdir()} == {
        "confusion_matrix.png",
        "worst_mistakes.png",
    }

    inputs = [photos / "red/red_0.jpg", photos / "blue/blue_1.jpg"]
    assert command("predict", *inputs, "--model", run, "--explain", "--top", 1) == 0
    out = capsys.readouterr().out
    assert "red_0.jpg: red " in out
    assert "blue_1.jpg: blue " in out
    assert Path("runs/image_classification/predictions.png").exists()

    assert command("export", "--run", run) == 0
    out = capsys.readouterr().out
    assert "card: saved_models/image_classification/card.md" in out
    version = "saved_models/image_classification/1"
    assert command("evaluate", "--model", version, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] == 1.0
    assert command("predict", "--model", version) == 0  # Some of its test images.
    assert capsys.readouterr().out.count(".jpg: ") == 6


def test_all_five_engines_answer_alike(run, exported, photos):
    encoded = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]

    def by_name(where):
        answers = load_predictor(str(where), load_classifier)(encoded)
        assert (np.diff(answers["scores"], axis=1) <= 0).all()
        names = answers["classes"].astype(bytes)
        return np.take_along_axis(answers["scores"], names.argsort(axis=1), axis=1)

    expected = by_name(run)
    assert expected.shape == (24, 3)
    float32 = exported / "edge/float32.tflite"
    with serve("image_classification", exported / "1") as (rest, grpc):
        for where in (exported / "1", float32, rest, grpc):
            np.testing.assert_allclose(by_name(where), expected, atol=1e-3)


def test_the_tensors_signature_takes_prepared_images(run, exported):
    import tensorflow as tf

    images = np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3)).astype("float32")
    loaded = tf.saved_model.load(exported / "1")
    scores = loaded.signatures["tensors"](images=tf.constant(images))["scores"]
    np.testing.assert_allclose(scores, load_classifier(run).model(images), atol=1e-5)


@pytest.fixture(scope="module")
def device(exported, tmp_path_factory):
    return make_device(exported / "edge", tmp_path_factory.mktemp("device"))


def test_the_bundle_runs_without_tensorflow(device, photos):
    bundle, python = device
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
    import time

    durations = []
    for _ in range(5):
        start = time.clock_gettime(time.CLOCK_MONOTONIC)
        done = subprocess.run(
            [python, "-c", program, photos / "green/green_0.jpg", "--top", "1"],
            cwd=bundle,
            capture_output=True,
            text=True,
            check=True,
        )
        answer, end, megabytes = done.stdout.splitlines()
        durations.append(float(end) - start)
        assert answer.split("\t")[1] == "green"
        assert float(megabytes) <= 200
    assert min(durations) <= 1.0


def test_the_bundle_refuses_what_is_no_image(device, tmp_path):
    bundle, python = device
    (tmp_path / "text.jpg").write_text("no picture")
    done = subprocess.run(
        [python, bundle / "run.py", tmp_path / "text.jpg"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "text.jpg cannot be read as an image" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_training_continues(tmp_path):
    arguments = ["--epochs", "5", "--learning-rate", "3e-3", "--run", tmp_path / "run"]
    line = [sys.executable, "-m", "apps.image_classification", "train", *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seen = b""
    while not re.search(rb"Epoch 3/5.*?[12]\d/38", seen, re.DOTALL):
        part = os.read(process.stdout.fileno(), 1 << 12)
        assert part, seen  # It ended by itself.
        seen += part
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run/finished.json").exists()
    done = len((tmp_path / "run/history.csv").read_text().splitlines()) - 1
    assert 2 <= done < 5

    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"Epoch {done + 1}/5" in again.stdout
    assert f"Epoch {done}/5" not in again.stdout
    history = (tmp_path / "run/history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in history[1:]] == ["0", "1", "2", "3", "4"]
    summary = json.loads((tmp_path / "run/finished.json").read_text())
    assert summary["val_accuracy"] >= 0.95
    assert load_predictor(str(tmp_path / "run"), load_classifier)


def test_help_answers_at_once():
    import time

    durations = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "apps.image_classification", "train", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        durations.append(time.perf_counter() - start)
    assert min(durations) <= 1.0
    assert "--fine-tune" in done.stdout
    assert "(default: 16)" in done.stdout
