"""The released model; the contract checks the files and their names."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from apps.common.predictors import about
from apps.face_synthesis.grids import decode
from apps.face_synthesis.signatures import load_model
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "saved_models/face_synthesis"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RELEASED.exists(), reason="no model is released"),
]
SEEDS = list(range(16))


def faces(where):
    return decode(load_model(str(where))(SEEDS)["image_bytes"]).astype(int)


@pytest.fixture(scope="module")
def served():
    return faces(RELEASED / "1")


def test_its_faces_vary(served):
    assert served.shape == (16, 64, 64, 3)
    assert served.std(axis=0).mean() > 20
    pairs = np.abs(served[:, None] - served).mean(axis=(2, 3, 4))
    assert pairs[~np.eye(16, dtype=bool)].min() > 5


def test_served_and_on_a_device_a_seed_gives_the_same_face(served):
    assert np.abs(faces(RELEASED / "edge") - served).mean() < 1
    with serve("face_synthesis", RELEASED / "1") as addresses:
        for address in addresses:
            np.testing.assert_array_equal(faces(address), served)


def test_attributes_and_latents_are_taken(served):
    labels = about(str(RELEASED / "1"))["classes"]
    names = list(dict.fromkeys(label.split("=")[0] for label in labels))
    wanted = [next(each for each in labels if each.startswith(f"{n}=")) for n in names]
    rows = [[str(seed), *(each.split("=")[1] for each in wanted)] for seed in SEEDS]
    answers = load_model(str(RELEASED / "1"), "with_attributes")(rows)
    assert (answers["attributes"].astype(str) == np.array(rows)[:, 1:]).all()
    again = load_model(str(RELEASED / "1"), "latent")(answers["latents"])
    assert again["image_bytes"].tolist() == answers["image_bytes"].tolist()


def test_it_is_small():
    assert (RELEASED / "edge/model.tflite").stat().st_size <= 8e6


def test_its_bundle_starts_without_tensorflow(served, tmp_path):
    bundle, python = make_device(RELEASED / "edge", tmp_path)
    subprocess.run([python, bundle / "run.py", "3"], cwd=tmp_path, check=True)
    (face,) = decode([(tmp_path / "face_3.png").read_bytes()]).astype(int)
    assert np.abs(face - served[3]).mean() < 1
