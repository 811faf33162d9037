import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from apps.common import lite
from apps.face_synthesis import edge
from apps.face_synthesis.export import bundle, served
from apps.face_synthesis.grids import decode
from apps.face_synthesis.signatures import noise_of, uniform_of
from tests.apps.face_synthesis.test_signatures import make

SEEDS = [0, 1, 2, 77, 2**16, 2**31 - 1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 4, 7, 130])
def test_a_device_makes_the_noise_of_the_graph(seed, size):
    noise = noise_of(tf.constant(seed, tf.int64), size)
    np.testing.assert_allclose(edge.normal(seed, size), noise, atol=1e-5)


def test_a_device_draws_the_numbers_of_the_graph():
    for seed in SEEDS:
        number = uniform_of(tf.constant(seed, tf.int64)).numpy()
        assert edge.to_uniform(edge.random_bits(seed, 1, 1)[0]) == number


def test_philox_has_the_published_answers():
    # The known answers of Random123 for counters and keys of zeros and of ones.
    zeros = np.zeros((4, 1), "uint64")
    found = edge.philox(*zeros, (0, 0))[:, 0]
    assert list(map(hex, found)) == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]
    ones = zeros + 0xFFFFFFFF
    found = edge.philox(*ones, (0xFFFFFFFF, 0xFFFFFFFF))[:, 0]
    assert list(map(hex, found)) == [
        "0x408f276d",
        "0x41c83b0e",
        "0xa20bc7c6",
        "0x6d5451fd",
    ]


def test_noise_is_normal():
    noise = np.concatenate([edge.normal(seed, 100) for seed in range(100)])
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", ["vae", "gan"])
def test_models_without_attributes_run_on_a_device(kind, tmp_path):
    synthesizer = make(kind)
    lite.write_bundle(bundle(synthesizer), tmp_path / "edge", ["float32"])
    predict = edge.load_model(tmp_path / "edge/float32.tflite")
    answers = predict([5, 6])
    expected = synthesizer.signatures["serving_default"](tf.constant([5, 6], tf.int64))
    assert set(answers) == {"image_bytes", "latents"}
    np.testing.assert_allclose(answers["latents"], expected["latents"], atol=1e-4)
    ours, theirs = (
        decode(np.array(each["image_bytes"])).astype(int)
        for each in (answers, expected)
    )
    assert np.abs(ours - theirs).max() <= 1
    for path in (tmp_path / "edge").glob("*.tflite"):
        assert not [
            name for name in lite.operations(path.read_bytes()) if "Flex" in name
        ]
    with pytest.raises(ValueError, match="no signature with_attributes"):
        edge.load_model(tmp_path / "edge/float32.tflite", "with_attributes")


@pytest.mark.parametrize("kind", ["vae", "gan", "conditional_gan"])
def test_every_signature_is_warmed_up(kind):
    content = served(make(kind))
    assert set(content.warm_up) == set(content.signatures)


def test_a_device_draws_wanted_attributes(exported, tmp_path):
    run = [sys.executable, exported / "edge/run.py", "3", "4", "--folder", tmp_path]
    done = subprocess.run(
        [*run, "--attributes", "yes", "", "red"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["3", "4"]
    assert all("smiling=yes, glasses=" in line for line in lines)
    assert all(line.endswith("hair=red") for line in lines)
    assert decode([(tmp_path / "face_4.png").read_bytes()]).shape == (1, 16, 16, 3)
    number = "pass a value, which may be empty, for each of smiling, glasses, hair"
    for wanted, says in (
        (["maybe", "", ""], "smiling must be one of no, yes, or empty"),
        (["yes"], number),
        (["yes", "", "red", "7"], number),
    ):
        done = subprocess.run(
            [*run, "--attributes", *wanted], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (2, f"error: {says}\n")


def test_the_card_says_how_faces_were_scored(exported):
    card = json.loads((exported / "card.json").read_text())
    assert card["classes"][:3] == ["smiling=no", "smiling=yes", "glasses=no"]
    assert "48 faces" in card["facts"]["Scores"]
    assert "EfficientNetLite0" in card["facts"]["Scores"]
    rows = {row["engine"]: row for row in card["engines"]}
    assert rows["SavedModel"]["pixel_difference"] <= 0.01
    assert {"frechet_distance", "precision", "coverage"} <= set(rows["SavedModel"])
