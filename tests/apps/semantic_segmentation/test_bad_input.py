"""One clear sentence that names the file or flag, status 2, nothing half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.semantic_segmentation.data import load_examples
from tests.apps.semantic_segmentation.conftest import small, write
from tests.conftest import run_command


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check(*arguments, says):
        before = set(Path().rglob("*"))
        assert run_command("semantic_segmentation", *arguments) == 2
        error = capsys.readouterr().err
        last = error.strip().splitlines()[-1]
        assert last.startswith("error: ")
        for part in says:
            assert part in last
        assert "Traceback" not in error
        assert set(Path().rglob("*")) == before

    return check


@pytest.fixture
def mine(tmp_path):
    write(tmp_path / "mine", range(8))
    return tmp_path / "mine"


TRAIN_MINE = ["train", "--data", "mine"]


def test_missing_folder(refused):
    refused("train", "--data", "nowhere", says=["no folder nowhere", "--data FOLDER"])


def test_no_names_of_classes(refused, mine):
    (mine / "classes.txt").unlink()
    refused(*TRAIN_MINE, says=["mine/classes.txt is missing", "one class per line"])


def test_the_name_of_a_single_class(refused, mine):
    (mine / "classes.txt").write_text("everything\n\n")
    refused(*TRAIN_MINE, says=["mine has the classes everything", "2 to 255"])


def test_a_folder_without_masks(refused, mine):
    shutil.rmtree(mine / "masks")
    refused(*TRAIN_MINE, says=["mine has no images and masks", "`masks`"])


def test_masks_with_other_names(refused, mine):
    for path in list((mine / "masks").iterdir()):
        path.rename(path.with_stem(f"mask_{path.stem}"))
    refused(
        *TRAIN_MINE,
        says=["no mask in mine/masks", "even_00.png, mask_even_00.png", "mine/images"],
    )


def test_a_mask_of_another_size(refused, mine):
    path = mine / "masks/odd_03.png"
    with Image.open(path) as mask:
        size = f"has {mask.width // 2}×{mask.height // 2} pixels"
        image_size = f"odd_03.jpg has {mask.width}×{mask.height}"
        mask.resize((mask.width // 2, mask.height // 2), 0).save(path)
    refused(*TRAIN_MINE, says=["mine/masks/odd_03.png", size, image_size])


def change_mask(path, change):
    with Image.open(path) as mask:
        numbers = np.array(mask)
    Image.fromarray(change(numbers)).save(path)


def test_a_number_that_is_no_class(refused, mine):
    change_mask(mine / "masks/even_02.png", lambda mask: np.where(mask == 2, 11, mask))
    refused(
        *TRAIN_MINE,
        says=["mine/masks/even_02.png holds the number 11", "0 to 2", "--void 11"],
    )
    config = small(mine, void=11)
    splits, _ = load_examples(config)
    assert sum(map(len, splits.values())) == 8


def test_a_mask_in_colors(refused, mine):
    change_mask(mine / "masks/even_02.png", lambda mask: np.stack([mask] * 3, axis=-1))
    refused(
        *TRAIN_MINE,
        says=[
            "mine/masks/even_02.png is a RGB image",
            "convert colours",
            "8-bit PNG",
        ],
    )


def test_a_damaged_mask(refused, mine):
    path = mine / "masks/even_02.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(*TRAIN_MINE, says=["mine/masks/even_02.png cannot be read"])


def test_training_names_and_skips_what_it_cannot_read(mine, capsys):
    whole = (mine / "images/odd_01.jpg").read_bytes()
    (mine / "images/odd_01.jpg").write_bytes(whole[: len(whole) // 2])
    (mine / "images/odd_03.jpg").write_text("no picture")
    (mine / "masks/odd_05.png").unlink()
    splits, _ = load_examples(small(mine))
    assert sum(map(len, splits.values())) == 5
    error = capsys.readouterr().err
    assert error.count("skipped: ") == 3
    assert "images/odd_01.jpg is damaged or cut short" in error
    assert "images/odd_03.jpg is not an image" in error
    assert "images/odd_05.jpg has no mask in" in error


def test_no_readable_image(refused, mine):
    for path in (mine / "images").iterdir():
        path.write_bytes(b"junk")
    refused(*TRAIN_MINE, says=["mine has no readable image"])


def test_too_few_images(refused, tmp_path):
    write(tmp_path / "mine", range(2))
    refused(*TRAIN_MINE, says=["mine has 2 images with masks"])


@pytest.mark.parametrize("flag", ["--image-size", "--crop"])
def test_sizes_that_are_no_multiples_of_32(refused, flag):
    refused(
        *("train", flag, 50, 90),
        says=[f"{flag} 50 90 must be multiples of 32, such as 64 96"],
    )


@pytest.mark.parametrize(
    ("flag", "value"), [("--batch-size", 0), ("--class-balance", 2.5), ("--void", 256)]
)
def test_numbers_that_cannot_work(refused, flag, value):
    refused("train", flag, value, says=[f"{flag} {value} must be from"])


def test_scales_in_the_wrong_order(refused):
    refused("train", "--scale", 2, 1, says=["--scale 2.0 1.0", "the smaller first"])


def test_a_beginning_that_no_name_or_every_name_has(refused, mine):
    refused(*TRAIN_MINE, "--held-out", "drive7", says=["--held-out drive7: none of"])
    for path in list((mine / "images").glob("even*")):
        path.unlink()
    refused(*TRAIN_MINE, "--held-out", "odd_", says=["--held-out odd_: all of the 3"])


def test_misspelt_names(refused, tmp_path):
    refused("train", "camvd", says=["'camvd'; did you mean 'camvid'?"])


def test_weights_that_are_missing_or_cannot_be_used(refused, mine):
    refused(*TRAIN_MINE, "--weights", "nowhere.h5", says=["nowhere.h5 is no file"])
    refused(*TRAIN_MINE, "--backbone", "small_resnet", says=["--weights None"])


def test_a_run_with_other_settings(refused, run, own_data):
    refused("train", "--data", own_data, "--run", run, says=[str(run), "--run"])


def test_a_model_that_is_none(refused):
    refused("evaluate", "--model", "nothing", says=["--model nothing is no model"])


def test_a_damaged_run(refused, run, own_data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "model.keras").write_bytes(b"junk")
    refused("evaluate", "--model", "copy", says=["copy cannot be loaded"])


def test_a_bundle_without_crf(refused, exported, tmp_path):
    bundle = shutil.copytree(exported / "edge", tmp_path / "edge")
    (bundle / "crf.tflite").unlink()
    refused("evaluate", "--model", "edge", "--crf", says=["crf.tflite is missing"])


def test_data_with_another_number_of_classes(refused, run, mine):
    (mine / "classes.txt").write_text("ground\ndisc\nbox\ncone\n")
    refused(
        *("evaluate", "--model", run, "--data", "mine"),
        says=[
            "the data has the 4 classes ground, disc, box, cone, but the model knows 3"
        ],
    )


def test_predict_names_a_text_file(refused, run, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    refused("predict", "text.jpg", "--model", run, says=["text.jpg is not an image"])


def test_predict_refuses_a_truncated_image(refused, run, own_data, tmp_path):
    whole = (own_data / "images/odd_01.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    refused("predict", "cut.jpg", "--model", run, says=["cut.jpg is damaged or cut"])


def test_a_search_without_held_out_images(refused, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["held_out"] = "none"
    (copy / "config.json").write_text(json.dumps(config))
    refused("search", "--run", "copy", says=["--run copy held out no images"])
    refused("search", "--run", "nowhere", says=["--run nowhere", "train first"])
    says = ["no images for validation"]
    refused("evaluate", "--model", "copy", "--split", "validation", says=says)


def test_exporting_what_was_not_trained(refused, run, tmp_path):
    refused("export", "--run", "nowhere", says=["--run nowhere", "train first"])
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "finished.json").unlink()
    refused("export", "--run", "copy", says=["not finished", "train command"])
