"""Refusals that only semantic segmentation has; the contract checks the others."""

import json
import shutil
from pathlib import Path

import pytest

from tests.apps.semantic_segmentation.shapes import write


@pytest.fixture
def mine(tmp_path):
    """A data set that a test may change."""
    write(tmp_path / "mine", range(8))
    return tmp_path / "mine"


TRAIN_MINE = ["train", "--data", "mine"]


def test_too_few_images_are_refused(refused, tmp_path):
    write(tmp_path / "mine", range(1))
    refused(*TRAIN_MINE, says=["mine has 1 usable example"])


@pytest.mark.parametrize("flag", ["--image-size", "--crop"])
def test_sizes_that_are_no_multiples_of_32_are_refused(refused, flag):
    says = [f"{flag} 50 90 must be multiples of 32, such as 64 96"]
    refused("train", flag, 50, 90, says=says)


def test_scales_in_the_wrong_order_are_refused(refused):
    refused("train", "--scale", 2, 1, says=["--scale 2.0 1.0", "the smaller first"])


def test_a_prefix_of_no_name_is_refused(refused, mine):
    refused(
        *(*TRAIN_MINE, "--validation-prefix", "drive7"),
        says=["--validation-prefix drive7: none of"],
    )


def test_a_number_that_is_no_class_is_refused(refused, mine):
    (mine / "classes.txt").write_text("ground\ndisc\n")
    refused(*TRAIN_MINE, says=["mine/masks/", "holds the number 2", "--void 2"])


def test_weights_that_are_missing_or_not_used_are_refused(refused, mine):
    refused(*TRAIN_MINE, "--weights", "nowhere.h5", says=["nowhere.h5 is no file"])
    refused(*TRAIN_MINE, "--backbone", "small_resnet", says=["--weights None"])


def test_a_bundle_without_crf_is_refused_for_masks_with_it(refused, exported, tmp_path):
    bundle = shutil.copytree(exported / "edge", tmp_path / "edge")
    (bundle / "crf.tflite").unlink()
    refused("evaluate", "--model", "edge", "--crf", says=["crf.tflite is missing"])


def test_data_with_another_number_of_classes_is_refused(refused, run, mine):
    (mine / "classes.txt").write_text("ground\ndisc\nbox\ncone\n")
    refused(
        *("evaluate", "--model", run, "--data", "mine"),
        says=[
            "the data has the 4 classes ground, disc, box, cone, but the model knows 3"
        ],
    )


def test_a_mask_that_would_replace_an_image_is_refused(refused, run, mine):
    image = Path("mine/images/even_00.png")
    predict = ["predict", image, "--model", run, "--masks", "mine/images"]
    refused(*predict, says=["--masks mine/images: a file would replace an image"])


def test_a_search_needs_validation_images(refused, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["validation_prefix"] = "none"
    (copy / "config.json").write_text(json.dumps(config))
    refused("search", "--run", "copy", says=["has no validation images"])
    refused("search", "--run", "nowhere", says=["--run nowhere", "train first"])
    says = ["no examples for validation"]
    refused("evaluate", "--model", "copy", "--split", "validation", says=says)
