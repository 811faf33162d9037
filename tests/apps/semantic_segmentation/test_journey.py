"""Somebody's own images and masks, from folders to a served model and a device."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.semantic_segmentation.data import decode_mask
from apps.semantic_segmentation.evaluate import load_model
from tests.conftest import run_command
from tests.device import make_device
from tests.model_server import serve

SMALL = [
    *("--model", "fcn", "--backbone", "small_resnet", "--weights", "None"),
    *("--image-size", 64, 64, "--crop", 64, 64, "--scale", 0.9, 1.1, "--color", 0),
    *("--epochs", 6, "--batch-size", 4, "--learning-rate", "3e-3"),
]


def command(*arguments):
    return run_command("semantic_segmentation", *arguments)


def test_own_images_go_all_the_way(own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "--data", own_data, *SMALL]
    assert command(*train) == 0
    run = Path("runs/semantic_segmentation/shapes")
    assert f"run: {run}" in capsys.readouterr().out
    assert (run / "curves.png").exists()
    # Once finished, the same command only tells so.
    modified = (run / "model.keras").stat().st_mtime_ns
    assert command(*train) == 0
    assert (run / "model.keras").stat().st_mtime_ns == modified
    assert "validation mean IoU " in capsys.readouterr().out

    def scores(*arguments):
        assert command("evaluate", *arguments, "--json") == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    report = scores("--model", run, "--crf")
    assert report["examples"] == 4  # A fifth of 20.
    assert report["mean_iou"] > 0.6  # Ground alone would be 0.25.
    assert report["mean_iou_crf"] > 0.6
    assert report["crf_milliseconds"] > 0
    assert list(report["classes"]) == ["ground", "disc", "box"]
    pictures = {path.name for path in (run / "evaluation").iterdir()}
    assert pictures == {"worst.png", "typical.png"}

    inputs = [own_data / "images/even_00.png", own_data / "images/odd_01.jpg"]
    assert command("predict", *inputs, "--model", run, "--masks", "masks") == 0
    out = capsys.readouterr().out
    assert "even_00.png: ground " in out
    assert Path("runs/semantic_segmentation/predictions.png").exists()
    for path in inputs:
        with Image.open(path) as image, Image.open(f"masks/{path.stem}.png") as mask:
            assert (mask.mode, mask.size) == ("L", image.size)
            assert set(np.unique(mask)) <= {0, 1, 2}

    assert command("export", "--run", run, "--variants", "float32") == 0
    out = capsys.readouterr().out
    assert "card: saved_models/semantic_segmentation/card.md" in out
    version = "saved_models/semantic_segmentation/1"
    served = scores("--model", version, "--crf")
    for name in ("mean_iou", "mean_iou_crf", "boundary_score"):
        assert served[name] == pytest.approx(report[name], abs=0.01)
    # Some of its test images.
    assert command("predict", "--model", version, "--picture", "some.png") == 0
    assert capsys.readouterr().out.count("ground ") == 4
    assert Path("some.png").exists()


def agreement(answers, others):
    """The share of pixels that have the same class."""
    pairs = [
        decode_mask(one) == decode_mask(other)
        for one, other in zip(answers["mask_bytes"], others["mask_bytes"], strict=True)
    ]
    return np.mean(np.concatenate([pair.ravel() for pair in pairs]))


def test_all_five_engines_answer_alike(run, exported, own_data):
    paths = sorted((own_data / "images").iterdir())
    encoded = [path.read_bytes() for path in paths]
    expected = {
        signature: load_model(str(run), signature)(encoded)
        for signature in ("serving_default", "with_crf")
    }
    assert 0.9 < agreement(*expected.values()) < 1  # The CRF does something.
    float32 = exported / "edge/float32.tflite"
    with serve("semantic_segmentation", exported / "1") as (rest, grpc):
        for where in (exported / "1", float32, rest, grpc):
            for signature, reference in expected.items():
                answers = load_model(str(where), signature)(encoded)
                # On a device the CRF is another one.
                exact = where != float32 or signature == "serving_default"
                least = 0.999 if exact else 0.97
                assert agreement(answers, reference) >= least
                np.testing.assert_allclose(
                    answers["shares"], reference["shares"], atol=2e-3 if exact else 0.05
                )
                for name, shares in zip(
                    answers["classes"].astype(bytes), answers["shares"], strict=True
                ):
                    known = np.array([b"ground", b"disc", b"box"])
                    assert (name == np.where(shares > 0, known, b"")).all()


@pytest.fixture(scope="module")
def device(exported, tmp_path_factory):
    return make_device(exported / "edge", tmp_path_factory.mktemp("device"))


def test_the_bundle_runs_without_tensorflow(device, own_data, tmp_path):
    bundle, python = device
    missing = subprocess.run(
        [python, "-c", "import tensorflow"], capture_output=True, text=True
    )
    assert "No module named 'tensorflow'" in missing.stderr

    path = own_data / "images/even_04.png"
    overlays = {}
    for flags in ((), ("--crf",)):
        folder = tmp_path / "".join(("to", *flags))
        done = subprocess.run(
            [python, bundle / "run.py", path, "--to", folder, *flags],
            capture_output=True,
            text=True,
            check=True,
        )
        *answers, last = (line.split("\t")[1:] for line in done.stdout.splitlines())
        assert answers[0][0] == "ground"
        shares = [float(share) for _, share in answers]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert last == ["overlay", str(folder / "even_04_overlay.png")]
        with Image.open(path) as image, Image.open(last[1]) as overlay:
            # Below the image stands a line for each class.
            height = image.height + 16 * len(answers)
            assert overlay.size == (image.width, height)
            overlays[flags] = np.array(overlay)[: image.height]
            disc = np.array(Image.open(own_data / "masks/even_04.png")) == 1
            expected = 0.4 * np.array(image) + 0.6 * np.array((255, 128, 0))
            near = np.abs(overlays[flags] - expected).max(axis=-1) < 3
        assert near[disc].mean() > 0.8
        assert near[~disc].mean() < 0.1
    assert (overlays[()] != overlays["--crf",]).any()


def test_the_bundle_refuses_what_is_no_image(device, tmp_path):
    bundle, python = device
    (tmp_path / "text.jpg").write_text("no picture")
    done = subprocess.run(
        [python, bundle / "run.py", tmp_path / "text.jpg", "--to", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "text.jpg cannot be read as an image" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]
