import json

import keras
import numpy as np
import pytest

from apps.common import runs
from apps.object_detection.faster_rcnn import FasterRCNN
from apps.object_detection.signatures import load_run
from apps.object_detection.train import compile_model, train
from tests.apps.object_detection.shapes import small, write


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write(folder, range(20))
    return folder


@pytest.mark.slow
def test_the_backbone_is_frozen_in_the_first_phase_only(shapes, tmp_path, monkeypatch):
    config = small(
        shapes,
        backbone="EfficientNetLite0",
        weights="imagenet",
        filters=16,
        head_epochs=1,
        epochs=2,
    )
    phases = {}
    fit = runs.fit

    def watch(model, batches, validation, run, phase, **options):
        backbone = model.get_layer("backbone")
        before = [variable.numpy() for variable in backbone.weights]
        fit(model, batches, validation, run, phase, **options)
        after = [variable.numpy() for variable in backbone.weights]
        changed = {
            weight.path.split("/")[-1]
            for weight, old, new in zip(backbone.weights, before, after, strict=True)
            if np.any(old != new)
        }
        phases[phase] = options["initial_epoch"], options["epochs"], changed

    monkeypatch.setattr(runs, "fit", watch)
    summary = train(config, tmp_path / "run")

    assert phases["head"] == (0, 1, set())
    first_epoch, last_epoch, changed = phases["fine_tuning"]
    assert (first_epoch, last_epoch) == (1, 3)
    # Its batch normalization stays as it was pretrained.
    assert changed == {"kernel"}
    assert summary["epochs"] == 3


@pytest.mark.slow
def test_a_run_has_its_baseline_and_its_confidence(shapes, tmp_path, capsys):
    """It is a training of Faster R-CNN in mixed precision, which ends in float32."""
    run = tmp_path / "run"
    config = small(
        shapes, model="faster_rcnn", epochs=1, filters=16, precision="mixed_bfloat16"
    )
    train(config, run)

    assert keras.config.dtype_policy().name == "float32"
    baseline = json.loads((run / "baseline.json").read_text())
    for split in ("validation", "test"):
        assert set(baseline[split]) == {"map", "ap50"}
    confidence = json.loads((run / "confidence.json").read_text())
    assert 0 <= confidence["confidence"] <= 1
    assert {"loss", "val_loss", "val_map", "val_ap50"} <= runs.read_history(run)[
        0
    ].keys()
    assert (run / "curves.png").exists()
    output = capsys.readouterr().out
    assert "baseline on validation: mAP 0." in output
    verdict = output.partition("\nthis is worse than the baseline")[0]
    assert "validation mAP 0." in verdict.splitlines()[-1]

    trained = keras.saving.load_model(run / "model.keras", compile=False)
    network = load_run(run).network
    assert isinstance(network, FasterRCNN)
    assert trained.get_layer("pyramid").compute_dtype == "bfloat16"
    assert network.get_layer("pyramid").compute_dtype == "float32"
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    for answer, expected in zip(
        network(images)["logits"], trained(images)["logits"], strict=True
    ):
        np.testing.assert_allclose(answer, expected, atol=0.1)


def test_large_gradients_are_clipped_together():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    compile_model(model, 1e-3, 1e-4)
    assert model.optimizer.global_clipnorm == 10
    assert model.optimizer.weight_decay == 1e-4
