import json
import shutil

import numpy as np
import pytest

from apps.common import runs
from apps.common.images import encode_png
from apps.face_synthesis import attributes as attributes_module
from apps.face_synthesis import baseline, metrics
from apps.face_synthesis import evaluate as module
from apps.face_synthesis.attributes import find_attributes
from apps.face_synthesis.evaluate import (
    attribute_agreement,
    evaluate,
    floor,
    floor_of_halves,
    load_features,
    nearest_distances,
)
from tests.apps.face_synthesis.test_attributes import examples
from tests.apps.face_synthesis.test_signatures import make
from tests.apps.face_synthesis.tiny import small, write

RANDOM = np.random.default_rng(0)
KNOWN, REAL = RANDOM.normal(size=(50, 4)), RANDOM.normal(size=(20, 4))


def test_the_floor_has_as_many_faces_as_there_are_samples():
    found = floor(KNOWN, REAL, 30)
    assert found["floor"]["samples"] == 30
    some = KNOWN[np.linspace(0, 49, 30).astype(int)]
    assert found["frechet_floor"] == metrics.frechet_distance(some, REAL)
    assert floor(KNOWN, REAL, 1000)["floor"]["samples"] == 50
    halves = floor_of_halves(REAL)
    assert halves["frechet_floor"] == metrics.frechet_distance(REAL[::2], REAL[1::2])


def test_copies_are_near_to_training_faces():
    found = nearest_distances(KNOWN[:10], REAL, KNOWN)
    assert found["nearest_training_distance"] == pytest.approx(0, abs=1e-6)
    expected = np.median([np.linalg.norm(KNOWN - each, axis=1).min() for each in REAL])
    assert found["nearest_training_distance_of_real"] == pytest.approx(expected)


def test_attribute_agreement_is_that_of_a_classifier(capsys):
    def values(features):
        return ["f" if row[0] > 0 else "m" for row in features]

    drawn = RANDOM.normal(size=(40, 4))
    drawn[:, 0] = np.where(np.arange(40) < 30, 2, -2)
    train, test = (
        (each, examples(sex=values(each), x=["a", "b"] * (len(each) // 2)))
        for each in (KNOWN, REAL)
    )
    wanted = {"sex": np.array(["f"] * 40), "x": np.array(["z"] * 40)}
    attributes = find_attributes(train[1], small())
    found = attribute_agreement(drawn, wanted, attributes, train, test)
    assert set(found["attributes"]) == {"sex"}
    assert found["attribute_agreement"] == 0.75
    assert found["attributes"]["sex"]["accuracy"] > 0.8
    assert "the values of x have changed" in capsys.readouterr().out


def test_missing_weights_are_replaced_by_installed_ones(capsys):
    features = load_features(None, small(weights="nowhere.h5"))
    assert features.name == "EfficientNetLite0"
    assert "nowhere.h5, with which the training scored faces, is not there" in (
        capsys.readouterr().out
    )


def test_blurred_and_mean_faces():
    pixels = RANDOM.integers(0, 256, (2, 16, 16, 3), "uint8")
    mean = baseline.mean_color(pixels)
    assert mean.shape == pixels.shape
    assert (mean == mean[:, :1, :1]).all()
    np.testing.assert_allclose(mean[:, 0, 0], pixels.mean(axis=(1, 2)), atol=0.51)
    blurred = baseline.blur(pixels).astype(float)
    assert 5 < blurred.std() < 0.7 * pixels.std()
    np.testing.assert_allclose(blurred.mean((1, 2)), pixels.mean((1, 2)), atol=6)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A run of an untrained autoencoder."""
    folder = tmp_path_factory.mktemp("vae")
    write(folder / "faces", range(40))
    synthesizer, run = make("vae"), folder / "run"
    settings = {"model": "vae", "num_samples": 12}
    runs.start(small(folder / "faces", **settings), run, {})
    empty = np.zeros((0, 0), int), np.zeros(0)
    attributes_module.save((), *empty, run)
    synthesizer.model.save(run / "model.keras")
    return run


def test_an_autoencoder_has_an_error_and_a_lower_bound(autoencoder, tmp_path, capsys):
    report = evaluate(str(autoencoder), figures_folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("samples.png", "neighbours.png", "reconstructions.png")
    }
    json.dumps(report)
    assert report["images"] == 10
    assert report["elbo_bits"] == pytest.approx(report["elbo"] / np.log(2) / 768)
    out = capsys.readouterr().out
    for text in ("training faces blurred", "real faces", "mean colour", "lower bound"):
        assert text in out
    predictor = module.load_model(str(autoencoder), "reconstruct")
    answers = predictor([encode_png(np.zeros((16, 16, 3), "uint8"))])
    assert answers["squared_error"].shape == (1,)


def test_other_numbers_of_samples(run, tmp_path):
    report = evaluate(str(run), num_samples=20, figures_folder=tmp_path)
    assert report["samples"] == report["floor"]["samples"] == 20
    assert 0 <= report["attribute_agreement"] <= 1
    assert set(report["attributes"]) == {"smiling", "glasses", "hair"}
    assert (
        report["baseline"]["frechet_distance"]
        < report["mean_color"]["frechet_distance"]
    )
    assert report["frechet_floor"] < report["baseline"]["frechet_distance"]


def test_other_data_needs_no_attributes(run, tmp_path):
    """The training had them, in other columns."""
    table = tmp_path / "faces/attributes.csv"
    write(table.parent, range(200, 206))
    settings = {"columns": ("smiling",), "value_names": ("smiling:yes=happy",)}
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    config = json.loads((run / "config.json").read_text())
    runs.write_json(tmp_path / "run/config.json", {**config, **settings})
    for _ in range(2):
        report = evaluate(
            *(str(tmp_path / "run"), str(table.parent)),
            num_samples=8,
            figures_folder=tmp_path,
        )
        assert (report["images"], "attributes" in report) == (6, False)
        table.unlink(missing_ok=True)
