"""Refusals that only face synthesis has; the contract checks the others."""

import numpy as np
import pytest
from PIL import Image

from tests.apps.face_synthesis.tiny import write

TRAIN_MINE = ["train", "--data", "mine"]


@pytest.fixture
def mine(tmp_path):
    """A data set that a test may change."""
    return write(tmp_path / "mine", range(8))


def set_values(mine, name, value):
    """Sets an attribute of all images."""
    header, *rows = (mine / "attributes.csv").read_text().splitlines()
    i = header.split(",").index(name)
    rows = [row.split(",") for row in rows]
    rows = [",".join([*row[:i], value, *row[i + 1 :]]) for row in rows]
    (mine / "attributes.csv").write_text("\n".join([header, *rows]) + "\n")


def test_an_attribute_with_one_value_is_refused(refused, mine):
    set_values(mine, "smiling", "yes")
    conditional = [*TRAIN_MINE, "--model", "conditional_gan", "--columns", "smiling"]
    says = ["the attribute smiling has 1 value only, yes; leave it out of --columns"]
    refused(*conditional, says=says)


def test_missing_attributes_are_refused(refused, mine):
    says = ["no column 'smilin'; did you mean 'smiling'?"]
    refused(*TRAIN_MINE, "--columns", "smilin", says=says)
    (mine / "attributes.csv").unlink()
    says = ["mine has no attribute with several values", "pass --model gan"]
    refused(*TRAIN_MINE, "--model", "conditional_gan", says=says)
    set_nothing = [*TRAIN_MINE, "--columns", "smiling"]
    refused(*set_nothing, says=["mine has none of attributes.csv", "--attribute-file"])
    refused(*TRAIN_MINE, "--attribute-file", "a.csv", says=["a.csv; correct it"])


def test_more_values_than_latent_numbers_are_refused(refused, mine):
    says = ["the attributes have", "values; pass a larger --latent-size"]
    refused(
        *(*TRAIN_MINE, "--model", "conditional_gan", "--latent-size", "4"), says=says
    )


def test_a_folder_without_images_is_refused(refused, mine):
    for path in mine.glob("images/*"):
        path.write_bytes(b"no image")
    refused(*TRAIN_MINE, says=["mine has no image that can be read; add images"])


def test_one_image_is_too_few(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    pixels = np.zeros((9, 9, 3), "uint8")
    Image.fromarray(pixels).save(tmp_path / "mine/a.png")
    refused(*TRAIN_MINE, says=["mine has 1 usable example; add more"])


def test_other_data_of_few_images_is_not_scored(refused, run, tmp_path):
    write(tmp_path / "few", range(3))
    says = ["few has 3 images; the distances need at least 4"]
    refused("evaluate", "--model", run, "--data", "few", says=says)
