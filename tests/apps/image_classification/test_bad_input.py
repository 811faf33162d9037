"""Refusals that only image classification has; the contract checks the others."""

import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from tests.apps.app_contract import run_app
from tests.apps.image_classification.conftest import make_image


@pytest.fixture
def mine(own_data, tmp_path):
    """A copy of the class folders that a test may change."""
    return shutil.copytree(own_data, tmp_path / "mine")


TRAIN_MINE = ["train", "--data", "mine"]


def test_a_single_class_is_refused(refused, mine):
    shutil.rmtree(mine / "red")
    shutil.rmtree(mine / "blue")
    refused(*TRAIN_MINE, says=["mine has 1 class folder", "green"])


def test_an_empty_folder_is_refused(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("train", "--data", "empty", says=["empty has no class folder"])


def test_split_folders_without_train_are_refused(refused, mine, tmp_path):
    (tmp_path / "data").mkdir()
    mine.rename(tmp_path / "data/val")
    refused("train", "--data", "data", says=["no folder train"])


def test_an_empty_split_folder_is_refused(refused, mine, tmp_path):
    (tmp_path / "data").mkdir()
    mine.rename(tmp_path / "data/train")
    (tmp_path / "data/test").mkdir()
    refused("train", "--data", "data", says=["no readable image for test"])


def test_too_few_images_of_a_class_are_refused(refused, mine):
    for path in sorted((mine / "red").iterdir())[1:]:
        path.unlink()
    refused(*TRAIN_MINE, says=["1 usable example of the class red"])


def test_an_unknown_data_set_is_refused(refused):
    refused("train", "--data", "tfds:mnst", says=["'mnst'; did you mean 'mnist'?"])


def test_misspelt_backbones_and_layers_are_refused(refused):
    train = ["train", "digits", "--image-size", 32, "--backbone", "MobileNetV2"]
    for flag, value, says in (
        ("--backbone", "MobilNetV2", "did you mean 'MobileNetV2'?"),
        ("--backbone-output", "block_15_ad", "did you mean 'block_15_add'?"),
    ):
        refused(*train, "--run", "never", flag, value, says=[value, says])


def test_weights_that_are_missing_or_do_not_fit_are_refused(refused, tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    train = ["train", "flowers", "--data", "digits", "--image-size", 32]
    for weights, says in (
        ("other.weights.h5", "does not fit EfficientNetLite0"),
        ("nowhere.h5", "is no file"),
    ):
        refused(*train, "--run", "never", "--weights", weights, says=[weights, says])


def test_pretrained_weights_for_the_small_network_are_refused(refused, mine):
    refused(*TRAIN_MINE, "--backbone", "small_resnet", says=["--weights None"])


def test_a_class_that_the_model_does_not_know_is_refused(refused, run, mine):
    (mine / "red").rename(mine / "violet")
    refused("evaluate", "--model", run, "--data", "mine", says=["violet", "red"])


def test_explaining_without_gradients_is_refused(refused, exported, own_data):
    predict = ["predict", own_data / "red/red_0.jpg", "--model", exported / "1"]
    refused(*predict, "--explain", says=["--explain needs gradients", "run directory"])


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "I;16", "LA", "P", "1"])
def test_unusual_images_are_classified(mode, run, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = make_image((200, 50, 40), seed=3)
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype("uint16")
        image = Image.fromarray(grey * 257)
    else:
        image = image.convert(mode)
    name = "image.jpg" if mode == "CMYK" else "image.png"
    image.save(name)
    for model in (run, exported / "1", exported / "edge"):
        result = run_app("image_classification", "predict", name, "--model", model)
        assert result.status == 0, result.err
        assert f"{name}: " in result.out
