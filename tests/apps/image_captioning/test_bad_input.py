"""Refusals that only image captioning has; the contract checks the others."""

import json

import keras
import pytest

from tests.apps.image_captioning.tiny import BOXES, write_images, write_lines

NAMES = [f"{i}.png" for i in range(8)]
ROWS = [f"{name}\ta wall number {name[0]}" for name in NAMES]


@pytest.fixture
def mine(tmp_path):
    """A data set that a test may change."""
    write_images(tmp_path / "mine/images", *NAMES)
    write_lines(tmp_path / "mine/captions.tsv", "image\tcaption", *ROWS)
    return tmp_path / "mine"


TRAIN_MINE = ["train", "--data", "mine"]
SMALL = ["--image-size", 32, "--backbone", "small_resnet", "--weights", "None"]


def test_missing_data_is_refused(refused, mine):
    says = ["no folder or file nowhere", "captions.tsv", "COCO's JSON"]
    refused("train", "--data", "nowhere", says=says)
    says = ["photos; pass --image-folder the folder of the images"]
    refused(*TRAIN_MINE, "--image-folder", "photos", says=says)


def test_a_folder_without_captions_is_refused(refused, mine):
    (mine / "captions.tsv").unlink()
    columns = "add captions.tsv with the columns file and caption"
    says = ["mine has no captions", columns, "captions_train.json"]
    refused(*TRAIN_MINE, "--image-column", "file", says=says)


def test_several_tables_are_refused(refused, mine):
    (mine / "captions.tsv").rename(mine / "a.tsv")
    (mine / "b.csv").write_text("image,caption\n")
    refused(*TRAIN_MINE, says=["several tables, a.tsv, b.csv; pass --data the one"])


def test_missing_columns_are_refused(refused, mine):
    says = ["captions.tsv has no column 'text', only image, caption", "--caption-col"]
    refused(*TRAIN_MINE, "--caption-column", "text", says=says)
    says = ["captions.tsv has no column 'file'", "--image-column"]
    refused(*TRAIN_MINE, "--image-column", "file", says=says)


def test_files_that_are_no_tables_are_refused(refused, mine):
    (mine / "captions.tsv").rename(mine / "captions.xlsx")
    says = ["captions.xlsx is not a table; its name must end in .tsv, .csv"]
    refused("train", "--data", "mine/captions.xlsx", says=says)


def test_captions_without_words_are_refused(refused, mine):
    rows = [f"{name}\t{caption}" for name in NAMES for caption in ("", " ...")]
    write_lines(mine / "captions.tsv", "image\tcaption", *rows)
    refused(*TRAIN_MINE, says=["captions.tsv has no caption that can be used; add"])
    write_lines(mine / "captions.tsv", "image\tcaption")
    refused(*TRAIN_MINE, says=["captions.tsv has no caption that can be used; add"])


def test_captions_of_other_images_are_refused(refused, mine):
    (mine / "images").rename(mine.parent / "elsewhere")
    says = ["captions.tsv has no caption of a readable image", "--image-folder"]
    refused(*TRAIN_MINE, says=says)
    for path in (mine.parent / "elsewhere").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    refused(*TRAIN_MINE, "--image-folder", "elsewhere", says=says)


def test_too_few_images_are_refused(refused, mine):
    write_lines(mine / "captions.tsv", "image\tcaption", *ROWS[:1])
    refused(*TRAIN_MINE, says=["mine has 1 usable example; add more"])


def test_captions_without_training_are_refused(refused, mine):
    (mine / "captions.tsv").rename(mine / "test.tsv")
    refused(*TRAIN_MINE, says=["mine has captions for test, but none for train"])


def test_json_files_of_other_tasks_are_refused(refused, mine):
    (mine / "captions.tsv").unlink()
    path = mine / "instances_train2017.json"
    for content in (BOXES, {**BOXES, "annotations": []}, {"questions": []}, []):
        path.write_text(json.dumps(content))
        says = ["instances_train2017.json is not COCO's JSON of captions; pass one"]
        refused("train", "--data", path, says=says)
        refused(*TRAIN_MINE, says=["mine has no captions; add captions.tsv"])


def test_damaged_json_files_are_refused(refused, mine):
    path = mine / "captions_train.json"
    for content in (
        "{",
        json.dumps({"annotations": [{"image_id": 1, "caption": "a wall"}]}),
        json.dumps({**BOXES, "annotations": [{"caption": "a wall"}]}),
    ):
        path.write_text(content)
        for data in (path, "mine"):
            says = ["captions_train.json is damaged", "export it again"]
            refused("train", "--data", data, says=says)


def test_two_json_files_of_one_split_are_refused(refused, mine):
    content = {**BOXES, "annotations": [{"image_id": 1, "caption": "a wall"}]}
    for name in ("captions_train2014.json", "captions_train2017.json"):
        (mine / name).write_text(json.dumps(content))
    says = ["captions_train2014.json and captions_train2017.json, both for train"]
    refused(*TRAIN_MINE, says=says)


def test_an_unknown_data_set_is_refused(refused):
    says = ["no 'coco_caption'; did you mean 'coco_captions'?"]
    refused("train", "--data", "tfds:coco_caption", says=says)


def test_misspelt_backbones_and_layers_are_refused(refused, mine):
    train = [*TRAIN_MINE, "--run", "never", "--image-size", 32]
    for flag, value, says in (
        ("--backbone", "MobilNetV2", "did you mean 'MobileNetV2'?"),
        ("--backbone-output", "block15_project", "no layer 'block15_project'; did"),
    ):
        refused(*train, flag, value, says=[value, says])


def test_weights_that_are_missing_or_do_not_fit_are_refused(refused, mine):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(mine / "other.weights.h5")
    train = [*TRAIN_MINE, "--image-size", 32]
    for weights, says in (
        ("mine/other.weights.h5", "does not fit EfficientNetLite0"),
        ("nowhere.h5", "is no file"),
    ):
        refused(*train, "--run", "never", "--weights", weights, says=[weights, says])
    refused(*train, "--backbone", "small_resnet", says=["--weights None"])


def test_settings_that_do_not_fit_the_captions_are_refused(refused, mine):
    train = [*TRAIN_MINE, *SMALL]
    refused(*train, "--beam-size", 90, says=["--beam-size 90 is more than the "])
    refused(*train, "--max-tokens", 1, says=["--max-tokens"])
    says = ["every caption of", "mine is longer than --max-tokens 3; raise it"]
    refused(*train, "--max-tokens", 3, says=says)
    for flag in ("--crop-area", "--attention-penalty"):
        refused(*train, flag, -1, says=[flag])


def test_texts_without_a_vocabulary_are_refused(refused, mine):
    train = [*TRAIN_MINE, *SMALL, "--token", "subword", "--vocabulary-size", 10]
    refused(*train, says=["no vocabulary", "--vocabulary-size"])
