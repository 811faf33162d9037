import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common import saved_models
from apps.common.release import size_mb
from apps.semantic_segmentation import edge
from apps.semantic_segmentation.export import export
from apps.semantic_segmentation.model import to_windowed
from apps.semantic_segmentation.signatures import load_run
from tests.apps.app_contract import run_on_device, succeed
from tests.apps.semantic_segmentation.conftest import APP, agreement
from tests.apps.semantic_segmentation.shapes import draw


@pytest.fixture(scope="module")
def card(exported):
    return json.loads((exported / "card.json").read_text())


def test_the_size_of_the_bundle_with_crf_counts_both_files(exported, card):
    rows = {row["engine"]: row for row in card["engines"]}
    files = [exported / "edge/model.tflite", exported / "edge/crf.tflite"]
    assert rows["model.tflite with crf.tflite"]["size_MB"] == size_mb(files)


def test_labels_have_colors(exported, card):
    ground, disc, box = (exported / "edge/labels.txt").read_text().splitlines()
    assert disc == "disc #ff8000"  # As the data says.
    assert (ground.split(" #")[0], box.split(" #")[0]) == ("ground", "box")
    assert card["classes"] == ["ground", "disc #ff8000", "box"]


def test_the_crf_is_in_the_graph_and_changes_masks(run, exported, load_model, own_data):
    names = saved_models.operations(exported / "1")
    assert "SparseTensorDenseMatMul" in names
    encoded = APP.inputs(own_data)
    answers = [
        load_model(run, name)(encoded) for name in ("serving_default", "with_crf")
    ]
    assert 0.9 < agreement(*answers) < 1


def test_a_device_has_the_windowed_crf(run, exported):
    random = np.random.default_rng(0)
    image = np.array(draw(0)[0].resize((64, 64)), "float32")[None]
    logits = random.normal(0, 1, (1, 64, 64, 3)).astype("float32")
    refine = edge.load_runner(exported / "edge/crf.tflite")
    refined = refine(images=image, logits=logits)["refined"]
    expected = to_windowed(load_run(run).crf)([logits, image])
    np.testing.assert_allclose(refined, expected, atol=1e-3)
    assert (refined.argmax(-1) != logits.argmax(-1)).mean() > 0.02


def test_evaluate_scores_the_crf_beside_the_network(run, tmp_path):
    evaluate = ["evaluate", "--model", run, "--crf", "--json", "--figures", tmp_path]
    report = json.loads(succeed(APP.name, *evaluate).splitlines()[-1])
    assert report["mean_iou_crf"] > 0.6
    assert report["mean_iou_crf"] != report["mean_iou"]
    assert np.isfinite(report["crf_milliseconds"])
    assert list(report["classes"]) == ["ground", "disc", "box"]


def test_masks_are_written_in_the_size_of_their_images(run, own_data, tmp_path):
    inputs = APP.arguments(own_data)
    predict = ["predict", *inputs, "--model", run, "--masks", tmp_path / "masks"]
    succeed(APP.name, *predict, "--figure", tmp_path / "figure.png")
    for path in inputs:
        mask_path = tmp_path / f"masks/{path.stem}.png"
        with Image.open(path) as image, Image.open(mask_path) as mask:
            assert (mask.mode, mask.size) == ("L", image.size)
            assert set(np.unique(mask)) <= {0, 1, 2}


def test_a_device_draws_overlays_without_and_with_the_crf(device, own_data, tmp_path):
    path = own_data / "images/even_04.png"
    overlays = []
    for flags in ((), ("--crf",)):
        folder = tmp_path / "".join(("to", *flags))
        done = run_on_device(device, path, "--to", folder, *flags, folder=tmp_path)
        *answers, last = (line.split("\t")[1:] for line in done.stdout.splitlines())
        fractions = [float(fraction) for _, fraction in answers]
        assert fractions == sorted(fractions, reverse=True)
        assert sum(fractions) == pytest.approx(1, abs=1e-3)
        assert last == ["overlay", str(folder / "even_04_overlay.png")]
        with Image.open(path) as image, Image.open(last[1]) as overlay:
            # Below the image stands a line for each class.
            height = image.height + 16 * len(answers)
            assert overlay.size == (image.width, height)
            overlays.append(np.array(overlay)[: image.height])
            disc = np.array(Image.open(own_data / "masks/even_04.png")) == 1
            expected = 0.4 * np.array(image) + 0.6 * np.array((255, 128, 0))
        is_orange = np.abs(overlays[-1] - expected).max(axis=-1) < 3
        assert is_orange[disc].mean() > 0.8
        assert is_orange[~disc].mean() < 0.1
    assert (overlays[0] != overlays[1]).any()


def test_the_crf_can_be_left_out_and_the_size_changed(run, tmp_path):
    to = tmp_path / "models"
    export(run, to, variants=("float32",), crf=False, image_size=(64, 96))
    loaded = tf.saved_model.load(str(to / "1"))
    assert set(loaded.signatures) == {"about", "serving_default", "tensors"}
    (images,) = loaded.signatures["tensors"].structured_input_signature[1].values()
    assert images.shape[1:3] == (64, 96)
    names = {path.name for path in (to / "edge").iterdir()}
    files = {
        "model.tflite",
        "float32.tflite",
        "labels.txt",
        "requirements.txt",
        "run.py",
    }
    assert names == files
    assert "with_crf" not in (to / "card.md").read_text()
