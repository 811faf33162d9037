"""One clear sentence that names the file or flag, status 2, nothing half-written."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture, run_command


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {}

    def check(*arguments, says):
        before.update(dict.fromkeys(Path().rglob("*")))
        assert run_command("image_classification", *arguments) == 2
        error = capsys.readouterr().err
        last = error.strip().splitlines()[-1]
        assert last.startswith("error: ")
        for part in says:
            assert part in last
        assert "Traceback" not in error
        assert set(Path().rglob("*")) == set(before)

    return check


@pytest.fixture
def own_photos(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "mine")


def test_missing_folder(refused):
    refused("train", "--data", "nowhere", says=["no folder nowhere", "--data FOLDER"])


def test_folder_with_one_class(refused, own_photos):
    shutil.rmtree(own_photos / "red")
    shutil.rmtree(own_photos / "blue")
    refused("train", "--data", "mine", says=["mine has 1 class folder", "green"])


def test_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("train", "--data", "empty", says=["empty has no class folder"])


def test_split_folder_without_train(refused, own_photos, tmp_path):
    (tmp_path / "data").mkdir()
    own_photos.rename(tmp_path / "data/val")
    refused("train", "--data", "data", says=["no folder train"])


def test_too_few_images_of_a_class(refused, own_photos):
    for path in sorted((own_photos / "red").iterdir())[1:]:
        path.unlink()
    refused("train", "--data", "mine", says=["1 usable example of the class red"])


def test_predict_names_a_text_file(refused, run, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    refused("predict", "text.jpg", "--model", run, says=["text.jpg is not an image"])


def test_predict_refuses_a_truncated_image(refused, run, photos, tmp_path):
    whole = (photos / "red/red_0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    refused("predict", "cut.jpg", "--model", run, says=["cut.jpg is damaged or cut"])


def test_a_model_that_is_none(refused, photos):
    picture = photos / "red/red_0.jpg"
    refused("predict", picture, "--model", "nothing", says=["--model nothing is no"])


def test_explaining_without_gradients(refused, exported, photos):
    refused(
        *("predict", photos / "red/red_0.jpg", "--model", exported / "1", "--explain"),
        says=["--explain needs gradients", "run directory"],
    )


def test_misspelt_names(refused):
    refused("train", "flower", says=["'flower'; did you mean 'flowers'?"])
    for flag, value, says in (
        ("--backbone", "MobilNetV2", "did you mean 'MobileNetV2'?"),
        ("--backbone-output", "block_15_ad", "did you mean 'block_15_add'?"),
    ):
        refused(
            *("train", "digits", "--image-size", 32, "--backbone", "MobileNetV2"),
            *("--run", "never", flag, value),
            says=[value, says],
        )


def test_weights_that_are_missing_or_of_another_architecture(refused, tmp_path):
    import keras

    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    train = ["train", "flowers", "--data", "digits", "--image-size", 32]
    for weights, says in (
        ("other.weights.h5", "does not fit MobileNetV2"),
        ("nowhere.h5", "is no file"),
    ):
        refused(*train, "--run", "never", "--weights", weights, says=[weights, says])


def test_another_class_than_the_model_knows(refused, run, own_photos):
    (own_photos / "red").rename(own_photos / "violet")
    refused("evaluate", "--model", run, "--data", "mine", says=["violet", "red"])


def test_exporting_what_was_not_trained(refused):
    refused("export", "--run", "nowhere", says=["--run nowhere", "train first"])


def test_a_run_with_other_settings(refused, run, photos):
    refused("train", "--data", photos, "--run", run, says=[str(run), "--run"])


@pytest.mark.parametrize(
    ("flag", "value"), [("--batch-size", 0), ("--epochs", 0), ("--crop-area", 2)]
)
def test_numbers_that_cannot_work(refused, flag, value):
    refused("train", flag, value, says=[flag, "must be from"])


def test_pretrained_weights_for_the_small_network(refused, own_photos):
    train = ["train", "--data", "mine", "--backbone", "small_resnet"]
    refused(*train, says=["--weights None"])


def test_an_empty_split_folder(refused, own_photos, tmp_path):
    (tmp_path / "data").mkdir()
    own_photos.rename(tmp_path / "data/train")
    (tmp_path / "data/test").mkdir()
    refused("train", "--data", "data", says=["no readable image for test"])


def test_an_unfinished_run_is_not_exported(refused, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "finished.json").unlink()
    refused("export", "--run", "copy", says=["not finished", "train command"])


def test_a_damaged_run(refused, run, photos, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "model.keras").write_bytes(b"junk")
    image = photos / "red/red_0.jpg"
    refused("predict", image, "--model", "copy", says=["copy cannot be loaded"])


def test_an_unknown_data_set(refused):
    refused("train", "--data", "tfds:mnst", says=["'mnst'; did you mean 'mnist'?"])


def test_training_names_and_skips_what_it_cannot_read(own_photos, tmp_path, capsys):
    from apps.image_classification.data import load_examples

    whole = (own_photos / "red/red_0.jpg").read_bytes()
    (own_photos / "red/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (own_photos / "blue/text.jpg").write_text("no picture")
    splits, _ = load_examples(str(own_photos), 0.1, seed=0)
    assert sum(map(len, splits.values())) == 24
    error = capsys.readouterr().err
    assert error.count("skipped: ") == 2
    assert "red/cut.jpg is damaged or cut short" in error
    assert "blue/text.jpg is not an image" in error


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "I;16", "LA", "P", "1"])
def test_unusual_images_simply_work(mode, run, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = picture((200, 50, 40), seed=3)
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype("uint16")
        image = Image.fromarray(grey * 257)
    else:
        image = image.convert(mode)
    name = "image.jpg" if mode == "CMYK" else "image.png"
    image.save(name)
    for model in (run, exported / "1", exported / "edge"):
        assert (
            run_command("image_classification", "predict", name, "--model", model) == 0
        )
