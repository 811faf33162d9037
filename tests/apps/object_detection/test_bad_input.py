"""Refusals that only object detection has; the contract checks the others."""

import json
import shutil

import pytest

from tests.apps.object_detection.shapes import write


@pytest.fixture
def mine(tmp_path):
    """A data set that a test may change."""
    write(tmp_path / "mine", range(8))
    return tmp_path / "mine"


TRAIN_MINE = ["train", "--data", "mine"]


def test_too_few_images_are_refused(refused, tmp_path):
    write(tmp_path / "mine", range(1))
    refused(*TRAIN_MINE, says=["mine has 1 usable example"])


def test_sizes_that_are_no_multiples_of_32_are_refused(refused):
    says = ["--image-size 50 90 must be multiples of 32, such as 64 96"]
    refused("train", "--image-size", 50, 90, says=says)


def test_scales_in_the_wrong_order_are_refused(refused):
    refused("train", "--scale", 2, 1, says=["--scale 2.0 1.0", "the smaller first"])


def test_a_class_that_is_not_listed_is_refused(refused, mine):
    says = ["a box of the class 'disc'", "add it to --classes"]
    refused(*TRAIN_MINE, "--classes", "box", "cone", says=says)


def test_a_folder_without_boxes_is_refused(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    says = ["mine has no boxes; expected XML files of Pascal VOC, JSON files of COCO"]
    refused(*TRAIN_MINE, says=says)


def test_weights_that_are_missing_or_not_used_are_refused(refused, mine):
    refused(*TRAIN_MINE, "--weights", "nowhere.h5", says=["nowhere.h5 is no file"])
    refused(*TRAIN_MINE, "--backbone", "small_resnet", says=["--weights None"])


def test_data_of_other_classes_is_refused(refused, run, mine):
    for path in (mine / "Annotations").iterdir():
        path.write_text(path.read_text().replace("disc", "cone"))
    evaluate = ["evaluate", "--model", run, "--data", "mine", "--figures", "figures"]
    refused(*evaluate, "--split", "all", says=["the class"])


def test_variants_that_a_model_lacks_are_refused(refused, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model": "faster_rcnn"}))
    says = ["--variants int8: a faster_rcnn model has no such variant"]
    refused("export", "--run", "copy", "--variants", "int8", says=says)


def test_folders_without_images_are_refused(refused, run, tmp_path):
    (tmp_path / "empty").mkdir()
    says = ["empty has no image that can be read"]
    refused("predict", "empty", "--model", run, says=says)
