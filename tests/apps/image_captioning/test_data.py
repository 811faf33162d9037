import gzip
import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.images import encode_png
from apps.image_captioning import data
from apps.image_captioning.config import Config
from tests.apps.image_captioning.tiny import BOXES, small, write_images, write_lines

ROWS = [
    "a.png\tA black dog.",
    "a.png\ttwo dogs, one ball",
    "b.jpg\tthe sea",
    "c.png\tA child's hat",
]
CAPTIONS = {
    "a.png": ("a black dog", "two dogs one ball"),
    "b.jpg": ("the sea",),
    "c.png": ("a child's hat",),
}


def read(path, **changes):
    """Returns the captions of all examples by the names of the images."""
    examples = data.load_split(small(path, **changes), "all", is_other_data=True)
    for i, image in enumerate(examples.images):
        assert examples.image_bytes(i) == image.read_bytes()
    return dict(zip(examples.names, examples.captions, strict=True))


def sizes_of(path, **changes):
    return datasets.sizes(data.read_splits(small(path, **changes)))


# Words


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog,  jumps !", "a man's dog jumps"),
        ("The dog 's T-shirt -- 'red' (7)", "the dog 's t-shirt red 7"),
        ("it’s a Ｗide ﬁeld\n", "it’s a wide field"),
        ("İki köpek; ÄÖ", "i̇ki köpek äö"),
        ("cafe\u0301 - - -tail", "café tail"),
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया"),
        ("一只狗。", "一只狗"),
        ("می\u200cخواهم ශ්\u200dරී", "میخواهم ශ්රී"),
        ("a sun\u00adset\u200b", "a sunset"),
        ("?! … ❤\ufe0f \u0301", ""),
        ("", ""),
    ],
)
def test_captions_become_words(caption, words):
    assert data.clean(caption) == words
    assert data.clean(words) == words


# Tables


def write_table(path, rows=ROWS, header="image\tcaption"):
    return write_lines(path, header, *rows)


@pytest.mark.parametrize("folder", ["", "images", "Images"])
def test_a_table_of_captions_is_read(folder, tmp_path, capsys):
    write_images(tmp_path / folder, *CAPTIONS)
    table = write_table(tmp_path / "captions.tsv")
    expected = {f"{folder}/{name}".lstrip("/"): CAPTIONS[name] for name in CAPTIONS}
    assert read(tmp_path) == expected
    assert read(table) == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["captions.csv", "captions.txt", "Captions.txt.gz", "results.csv.gz"]
)
def test_tables_with_commas_are_read(name, tmp_path):
    """`captions.txt` of Kaggle has this form."""
    write_images(tmp_path / "Images", *CAPTIONS)
    rows = [
        "image,caption",
        'a.png,"A black, old dog ."',
        "a.png,two dogs",
        'b.jpg,"a sign says ""stop"""',
    ]
    path = tmp_path / name
    content = "\r\n".join(rows).encode()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    expected = {
        "Images/a.png": ("a black old dog", "two dogs"),
        "Images/b.jpg": ("a sign says stop",),
    }
    assert read(tmp_path) == expected
    # Under any other name, a text is no table unless it is passed.
    path = path.rename(tmp_path / f"mine.txt{'.gz' * name.endswith('gz')}")
    assert read(path) == expected
    with pytest.raises(BadInput, match="has no captions; add"):
        read(tmp_path)


def test_other_columns_and_folders_can_be_named(tmp_path, capsys):
    write_images(tmp_path / "photos", *CAPTIONS, "other.png")
    header = "number\tfile\ttext"
    rows = [f"{i}\t{row}" for i, row in enumerate(ROWS)]
    table = write_table(tmp_path / "data/table.tsv", rows, header)
    names = {"image_column": "file", "caption_column": "text"}
    captions = read(table, image_folder=str(tmp_path / "photos"), **names)
    assert captions == {f"../photos/{name}": CAPTIONS[name] for name in CAPTIONS}
    assert capsys.readouterr().err == ""  # Other images may lie there.


def test_names_may_have_folders(tmp_path):
    write_images(tmp_path / "images", "day/a.png", "night/a.png")
    rows = ["day/a.png\tthe sun", "images/night/a.png\tthe moon"]
    table = write_table(tmp_path / "captions.tsv", rows)
    captions = {"images/day/a.png": ("the sun",), "images/night/a.png": ("the moon",)}
    assert read(table) == captions
    path = tmp_path / "images/day/a.png"
    write_table(table, [f"{path}\tthe sun"])
    assert read(table) == {"images/day/a.png": ("the sun",)}


def test_tables_of_splits_are_kept(tmp_path):
    for split, number in (("train", 4), ("val", 2), ("test", 3)):
        names = [f"{split}{i}.png" for i in range(number)]
        write_images(tmp_path / "images", *names)
        rows = [f"{name}\ta dog" for name in names]
        write_table(tmp_path / f"{split}.tsv", rows)
    (tmp_path / "LICENSE.txt").write_text("yours")
    (tmp_path / "test_images.txt").write_text("test0.png")
    assert sizes_of(tmp_path) == {"train": 4, "validation": 2, "test": 3}
    splits = data.load_examples(small(tmp_path))
    assert datasets.sizes(splits) == {"train": 4, "validation": 2, "test": 3}
    assert splits.held_out == {}
    for split, examples in splits.items():
        assert {name[7:10] for name in examples.names} == {split[:3]}


def test_other_tables_lie_beside_that_of_the_captions(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    table = write_table(tmp_path / "captions.tsv")
    for name in ("LICENSE.txt", "._captions.tsv"):
        (tmp_path / name).write_text("mine")
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err == ""
    table.rename(tmp_path / "table.tsv")
    assert read(tmp_path) == CAPTIONS
    for name in ("sizes.csv", "test_a.tsv"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match=r"several tables, sizes.csv, table.tsv, test_a"):
        read(tmp_path)
    assert read(tmp_path / "table.tsv") == CAPTIONS
    write_table(tmp_path / "captions.csv", ["a.png,a dog"], "image,caption")
    assert read(tmp_path) == {"a.png": ("a dog",)}
    assert capsys.readouterr().err.splitlines()[0] == (
        "skipped 3 files: is not read beside captions.csv: sizes.csv, table.tsv, "
        "test_a.tsv"
    )
    write_table(tmp_path / "captions.tsv")
    with pytest.raises(BadInput, match=r"several tables, captions.csv, captions.tsv;"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["dev.tsv", "Dev.csv", "val.txt"])
@pytest.mark.parametrize("train", ["train.tsv", "captions.tsv"])
def test_captions_are_those_of_the_training_beside_another_split(train, name, tmp_path):
    write_images(tmp_path, *CAPTIONS)
    write_table(tmp_path / train, ROWS[:3])
    write_table(tmp_path / name, [ROWS[3].replace("\t", ",")], "image,caption")
    if name.endswith("tsv"):
        write_table(tmp_path / name, ROWS[3:])
    splits = data.read_splits(small(tmp_path))
    names = {split: examples.names for split, examples in splits.items()}
    assert names == {"train": ["a.png", "b.jpg"], "validation": ["c.png"]}
    assert list(names) == ["train", "validation"]


def test_unread_tables_are_named(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    for name in ("train.tsv", "captions.tsv", "captions.csv"):
        write_table(tmp_path / name)
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err == (
        "skipped 2 files: is not read beside train.tsv: captions.csv, captions.tsv\n"
    )
    (tmp_path / "train.tsv").rename(tmp_path / "train.txt")
    write_json(tmp_path / "captions_train.json", coco(CAPTIONS))
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err == (
        "skipped 3 files: is not read beside captions_train.json: captions.csv, "
        "captions.tsv, train.txt\n"
    )


def test_names_may_be_written_as_other_programs_do(tmp_path, capsys):
    write_images(tmp_path / "images", "day/a.png", "b.png", " c.png")
    rows = ["images\\day\\a.png\tthe sun", ' "b.png" \tthe sea', " c.png\tthe moon"]
    write_table(tmp_path / "captions.tsv", rows)
    expected = {
        "images/day/a.png": ("the sun",),
        "images/b.png": ("the sea",),
        "images/ c.png": ("the moon",),
    }
    assert read(tmp_path) == expected
    captions = {row.split("\t")[0]: (row.split("\t")[1],) for row in rows}
    write_json(tmp_path / "captions.json", coco(captions))
    assert read(tmp_path / "captions.json") == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("separator", [", ", "; "])
def test_spaces_may_follow_the_commas(separator, tmp_path):
    write_images(tmp_path, *CAPTIONS)
    rows = [
        separator.join(row)
        for row in (
            ("image", "caption"),
            ("a.png", "a dog"),
            ("b.jpg", '"old, or; young"'),
        )
    ]
    write_lines(tmp_path / "captions.csv", *rows)
    assert read(tmp_path) == {"a.png": ("a dog",), "b.jpg": ("old or young",)}


# Held-out splits


def test_missing_splits_are_drawn(tmp_path):
    names = [f"{i:02}.png" for i in range(20)]
    write_images(tmp_path, *names)
    rows = [f"{name}\tnumber {name[:2]}" for name in names for _ in range(2)]
    write_table(tmp_path / "captions.tsv", rows)
    config = small(tmp_path, validation_fraction=0.2)
    splits = data.load_examples(config)
    assert datasets.sizes(splits) == {"train": 12, "validation": 3, "test": 5}
    every = [name for examples in splits.values() for name in examples.names]
    assert sorted(every) == names
    for split, examples in splits.items():
        number = [name[:2] for name in examples.names]
        assert examples.captions == [(f"number {i}",) * 2 for i in number]
        assert data.load_split(config, split).names == examples.names

    # They stay when there are more images.
    write_images(tmp_path, "new.png")
    write_table(tmp_path / "captions.tsv", ["new.png\tnew", *rows])
    again = data.load_examples(config, splits.held_out)
    for split in ("validation", "test"):
        assert sorted(again[split].names) == sorted(splits[split].names)
    assert len(again["train"]) == 13


def test_other_data_is_taken_whole(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    write_table(tmp_path / "captions.tsv")
    examples = data.load_split(small(tmp_path), "test", is_other_data=True)
    assert examples.names == list(CAPTIONS)
    assert "no split 'test'; all 3 examples are scored" in capsys.readouterr().out


def test_captions_for_testing_alone_can_be_scored_but_not_trained_on(tmp_path):
    write_images(tmp_path, *CAPTIONS)
    write_table(tmp_path / "test.tsv")
    config = small(tmp_path)
    assert len(data.load_split(config, "test", is_other_data=True)) == 3
    with pytest.raises(BadInput, match="captions for test, but none for train; add"):
        data.load_examples(config)


# What cannot be used


def test_captions_that_cannot_be_used_are_named(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    long = "word " * 1001
    rows = [*ROWS, "b.jpg\t", "c.png\t ?!", f"c.png\t{long}", "\ta dog"]
    table = write_table(tmp_path / "captions.tsv", rows)
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 2 captions: has no words: line 6 of {table}, line 7 of {table}",
        f"skipped 1 caption: has more than 5000 bytes: line 8 of {table}",
        f"skipped 1 caption: names no image: line 9 of {table}",
    ]


@pytest.mark.parametrize("is_closed", [False, True])
def test_captions_of_several_lines_are_named(is_closed, tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    rows = ['a.png,"a dog', "b.jpg,the sea", "c.png,a hat"]
    if is_closed:
        rows[1] += '"'
    table = write_table(
        tmp_path / "captions.csv", ['b.jpg,"the moon\n"', *rows], "image,caption"
    )
    expected = {"b.jpg": ("the moon",)} | ({"c.png": ("a hat",)} if is_closed else {})
    assert read(table) == expected
    assert capsys.readouterr().err.splitlines()[0] == (
        f"skipped 1 caption: spans several lines; close its quotes: line 4 of {table}"
    )


@pytest.mark.parametrize("name", ["a long caption " * 20, "nul\0.png"])
def test_names_that_no_file_can_have_are_named(name, tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    table = write_table(tmp_path / "captions.tsv", [*ROWS, f"{name}\ta dog"])
    assert read(tmp_path) == CAPTIONS
    reason = "skipped 1 file: is annotated, but there is no such file: "
    assert capsys.readouterr().err == f"{reason}{name.strip()}\n"
    write_table(table, ["\t".join(reversed(row.split("\t"))) for row in ROWS])
    with pytest.raises(BadInput, match="no caption of a readable image"):
        read(tmp_path)


def test_images_of_two_splits_are_named(tmp_path, capsys):
    names = [f"{i}.png" for i in range(6)]
    write_images(tmp_path, *names)
    rows = [f"{name}\ta dog" for name in names]
    write_table(tmp_path / "train.tsv", [*rows, rows[0]])
    write_table(tmp_path / "val.tsv", rows[5:])
    write_table(tmp_path / "test.tsv", [f"./{row}" for row in rows[1:5]])
    assert sizes_of(tmp_path) == {"train": 6, "validation": 1, "test": 4}
    assert capsys.readouterr().err.splitlines() == [
        "kept 4 images: is in train and test; leave it in one of them: 1.png, 2.png, "
        "3.png and 1 more",
        "kept 1 image: is in train and validation; leave it in one of them: 5.png",
    ]


def test_figures_of_runs_are_no_images_without_captions(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS, "runs/mine/evaluation/worst.png", "new/x.png")
    write_table(tmp_path / "captions.tsv")
    (tmp_path / "runs/mine/config.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")  # Not of a run.
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 file: has no captions of COCO: config.json",
        "skipped 1 file: has no annotation: new/x.png",
    ]


def test_images_and_captions_without_one_another_are_named(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS, "alone.png", "mute.png")
    rows = [*ROWS, *[f"lost{i}.png\ta dog" for i in (5, 5, 1, 2, 3)], "mute.png\t"]
    table = write_table(tmp_path / "captions.tsv", rows)
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 1 caption: has no words: line 11 of {table}",
        "skipped 4 files: is annotated, but there is no such file: lost1.png, "
        "lost2.png, lost3.png and 1 more",
        "skipped 2 files: has no annotation: alone.png, mute.png",
    ]
    assert read(table, image_folder=str(tmp_path)) == CAPTIONS
    assert capsys.readouterr().err.splitlines()[1:] == [
        "skipped 4 files: is annotated, but there is no such file: lost1.png, "
        "lost2.png, lost3.png and 1 more",
    ]


def test_damaged_images_are_named_and_unusual_ones_converted(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS, "d.webp")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    (tmp_path / "c.png").write_text("no image")
    write_table(tmp_path / "captions.tsv", [*ROWS, "d.webp\tthe moon"])
    captions = data.load_split(small(tmp_path), "all", is_other_data=True)
    assert dict(zip(captions.names, captions.captions, strict=True)) == {
        "b.jpg": ("the sea",),
        "d.webp": ("the moon",),
    }
    assert captions.images[1].suffix == ".jpg"
    captured = capsys.readouterr()
    assert "converted images that TensorFlow does not decode: 1 WEBP" in captured.out
    assert captured.err.splitlines() == [
        "skipped 1 file: is damaged or truncated; replace it: a.png",
        "skipped 1 file: is not an image; use JPEG or PNG files: c.png",
    ]


def test_a_caption_of_a_readable_image_is_needed(tmp_path):
    write_images(tmp_path, "a.png")
    table = write_table(tmp_path / "captions.tsv", ["a.png\t...", "a.png\t"])
    for path in (table, tmp_path):
        with pytest.raises(BadInput, match=r"captions.tsv has no caption that can be"):
            read(path)
    write_table(table, ["b.png\ta dog"])
    with pytest.raises(BadInput, match=r"no caption of a readable image; .* --image-f"):
        read(tmp_path)


# COCO


def coco(captions, **changes):
    """Returns COCO's JSON of the captions of images."""
    ids = {name: 7 + 3 * i for i, name in enumerate(captions)}
    return {
        "info": {"year": 2017},
        "images": [{"id": ids[name], "file_name": name} for name in captions],
        "annotations": [
            {"id": i, "image_id": ids[name], "caption": caption}
            for name, each in captions.items()
            for i, caption in enumerate(each)
        ],
        **changes,
    }


def write_json(path, content):
    return write_lines(path, json.dumps(content))


@pytest.mark.parametrize("folder", ["", "images", "train2017"])
def test_a_json_file_of_coco_is_read(folder, tmp_path, capsys):
    write_images(tmp_path / folder, *CAPTIONS)
    path = write_json(tmp_path / "captions_train2017.json", coco(CAPTIONS))
    expected = {f"{folder}/{name}".lstrip("/"): CAPTIONS[name] for name in CAPTIONS}
    assert read(path) == expected
    assert read(tmp_path) == expected
    assert capsys.readouterr().err == ""


def test_a_folder_of_coco_is_read(tmp_path, capsys):
    for split, name in (("train", "a.png"), ("dev", "b.jpg")):
        write_images(tmp_path / f"{split}2017", name)
        captions = coco({name: CAPTIONS[name]})
        write_json(tmp_path / f"annotations/captions_{split}2017.json", captions)
        # Other annotations are large, so they are not even read.
        write_lines(tmp_path / f"annotations/instances_{split}2017.json", "damaged")
    splits = data.read_splits(small(tmp_path))
    assert splits["train"].names == ["train2017/a.png"]
    assert splits["validation"].names == ["dev2017/b.jpg"]
    assert splits["train"].captions == [CAPTIONS["a.png"]]
    assert capsys.readouterr().err == (
        "skipped 2 files: is not read beside captions_dev2017.json: "
        "instances_dev2017.json, instances_train2017.json\n"
    )
    splits = data.read_splits(small(tmp_path / "annotations"))
    assert splits["train"].names == ["train2017/a.png"]


@pytest.mark.parametrize(
    "folder", ["train2017", "images/train2017", "train2017/images", "annotations"]
)
def test_images_lie_beside_the_annotations_of_coco(
    folder, tmp_path, capsys, monkeypatch
):
    write_images(tmp_path / folder, *CAPTIONS)
    write_images(tmp_path / "val2017", "other.png")
    path = write_json(tmp_path / "annotations/captions_train2017.json", coco(CAPTIONS))
    expected = {f"{folder}/{name}": CAPTIONS[name] for name in CAPTIONS}
    assert read(path) == expected
    assert capsys.readouterr().err == ""  # Other images belong to other files.
    monkeypatch.chdir(path.parent)
    assert read(path.name) == expected


def test_images_of_tables_lie_in_folders_of_their_splits(tmp_path):
    for split, name in (("train", "a.png"), ("val", "b.jpg"), ("test", "c.png")):
        write_images(tmp_path / f"images/{split}", name)
        write_table(tmp_path / f"{split}.tsv", [f"{name}\ta {split}"])
    assert list(read(tmp_path)) == [
        *("images/train/a.png", "images/val/b.jpg", "images/test/c.png")
    ]


@pytest.mark.parametrize("content", [[], BOXES, "a text"])
def test_other_json_files_are_named(content, tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    write_json(tmp_path / "results.json", content)
    says = "skipped 1 file: has no captions of COCO: results.json\n"
    write_table(tmp_path / "captions.tsv")
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err == says
    (tmp_path / "captions.tsv").unlink()
    write_json(tmp_path / "train.json", coco(CAPTIONS))
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err == says
    (tmp_path / "train.json").rename(tmp_path / "my_Captions.json")
    assert read(tmp_path) == CAPTIONS
    assert capsys.readouterr().err == (
        "skipped 1 file: is not read beside my_Captions.json: results.json\n"
    )


def test_what_coco_lacks_is_named(tmp_path, capsys):
    write_images(tmp_path, *CAPTIONS)
    content = coco({**CAPTIONS, "c.png": ()})
    content["annotations"] += [
        {"image_id": 999, "caption": "a dog"},
        {"image_id": 10, "caption": None},
        {"image_id": 10, "caption": ""},
        {"image_id": 10, "caption": ["the sea"]},
        {"image_id": 10, "caption": {"en": "the sea"}},
        {"image_id": 99, "caption": "the moon"},
        {"image_id": 10, "caption": "\ntwo\nlines\n"},
    ]
    content["images"] += [{"id": i, "file_name": None} for i in (99, 100)]
    path = write_json(tmp_path / "captions.json", content)
    captions = {"a.png": CAPTIONS["a.png"], "b.jpg": ("the sea", "two lines")}
    assert read(path) == captions
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 1 caption: names no image: annotation 4 of {path}",
        f"skipped 3 captions: has no caption text: annotation 5 of {path}, annotation "
        f"7 of {path}, annotation 8 of {path}",
        f"skipped 2 captions: has no words: annotation 6 of {path}, image c.png of "
        f"{path}",
        f"skipped 1 caption: has an image without a file name: annotation 9 of {path}",
        "skipped 1 file: has no annotation: c.png",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"images": None},
        {"images": [{"id": 7}]},
        {"annotations": [{"caption": "a dog"}]},
        {"annotations": [{"image_id": [7], "caption": "a dog"}]},
        {"annotations": [{"image_id": 7, "caption": "a dog"}, {"image_id": 7}]},
        {"annotations": [{"image_id": 7, "caption": "a dog"}, "a cat"]},
    ],
)
def test_damaged_files_of_coco_are_refused(changes, tmp_path):
    path = write_json(tmp_path / "captions.json", coco(CAPTIONS, **changes))
    with pytest.raises(BadInput, match=r"captions.json is damaged: .* export it again"):
        read(path)


# Flickr8k


def write_flickr8k(folder):
    write_images(folder / "images", *CAPTIONS, "d.png", "in_no_list.png")
    captions = {**CAPTIONS, "lost.jpg": ("x",), "in_no_list.png": ("x",)}
    lines = [
        f"{name}#{i}\t{caption} ."
        for name, each in captions.items()
        for i, caption in enumerate(each)
    ]
    write_lines(folder / "Flickr8k.token.txt", *lines)
    for split, names in (
        ("train", ["a.png", "lost.jpg"]),
        ("dev", ["b.jpg", "d.png"]),
        ("test", ["c.png", ""]),
    ):
        write_lines(folder / f"Flickr_8k.{split}Images.txt", *names)


def test_flickr8k_is_read(tmp_path, capsys):
    write_flickr8k(tmp_path)
    (tmp_path / "readme.txt").write_text("mine")
    splits = data.load_examples(small(tmp_path))
    assert list(splits) == ["train", "validation", "test"]
    for split, name in zip(splits, CAPTIONS, strict=True):
        assert splits[split].names == [f"images/{name}"]
        assert splits[split].captions == [CAPTIONS[name]]
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 1 caption: has no words: {tmp_path}/Flickr_8k.devImages.txt",
        "skipped 1 file: is annotated, but there is no such file: lost.jpg",
    ]
    splits = data.load_examples(small(tmp_path / "Flickr8k.token.txt"))
    assert splits["test"].names == ["images/c.png"]


@pytest.mark.parametrize(
    "path", [".", "Flickr8k_text", "Flickr8k_text/Flickr8k.token.txt"]
)
def test_the_folders_of_flickr8k_may_lie_beside_one_another(path, tmp_path):
    write_flickr8k(tmp_path / "Flickr8k_text")
    folder = tmp_path / "Flickr8k_text/images"
    folder.rename(tmp_path / "Flicker8k_Dataset")
    splits = data.load_examples(small(tmp_path / path))
    assert splits["test"].names == ["Flicker8k_Dataset/c.png"]


def test_images_in_two_lists_of_flickr8k_are_named(tmp_path, capsys):
    write_flickr8k(tmp_path)
    write_lines(tmp_path / "Flickr_8k.testImages.txt", "c.png", "a.png")
    data.load_examples(small(tmp_path))
    says = "kept 1 image: is in train and test; leave it in one of them: images/a.png"
    assert says in capsys.readouterr().err.splitlines()


def test_flickr8k_needs_lists_of_its_images(tmp_path):
    write_flickr8k(tmp_path)
    for path in tmp_path.glob("*Images.txt"):
        path.unlink()
    with pytest.raises(BadInput, match=r"none of Flickr8k's lists .* Flickr_8k.trainI"):
        read(tmp_path)


# TensorFlow Datasets


def store(name, caption, captions, folder, feature="captions"):
    """Stores a data set with these captions of each image for TensorFlow Datasets."""
    image = encode_png(np.full((6, 8, 3), 90, "uint8"))
    records = [(i, {"image": image, feature: each}) for i, each in enumerate(captions)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(encoding_format="png"), feature: caption}
        ),
        split_datasets={"train": records[:-2], "test": records[-2:]},
        data_dir=folder,
    )
    tfds.core.add_data_dir(folder)


TEXT = tfds.features.Text()


def test_tensorflow_datasets_like_coco_captions_are_read(tmp_path, capsys):
    caption = tfds.features.Sequence({"id": np.int64, "text": TEXT})
    texts = [[f"Number {i}.", "?", f"{i}, again"] for i in range(6)]
    texts[1] = ["..."]
    texts[3].append("word " * 1001)
    captions = [{"id": [0] * len(each), "text": each} for each in texts]
    store("tiny_coco", caption, captions, tmp_path)
    splits = data.read_splits(Config("tfds:tiny_coco"))
    assert datasets.sizes(splits) == {"train": 3, "test": 2}
    said = capsys.readouterr().err
    assert "skipped 1 image: has no caption: tiny_coco train" in said
    assert "skipped 6 captions: has no words: tiny_coco " in said
    assert "skipped 1 caption: has more than 5000 bytes: tiny_coco " in said
    every = datasets.join(splits.values())
    numbers = [int(each[0].split()[1]) for each in every.captions]
    assert sorted(numbers) == [0, 2, 3, 4, 5]
    assert every.captions == [(f"number {i}", f"{i} again") for i in numbers]
    assert len(set(every.names)) == 5
    # The named feature goes before `captions`.
    with pytest.raises(BadInput, match="`image` is not text"):
        data.read_splits(Config("tfds:tiny_coco", caption_column="image"))
    image = every.image_bytes(0)
    assert Image.open(io.BytesIO(image)).size == (8, 6)


@pytest.mark.parametrize("several", [False, True])
def test_captions_may_be_one_text_or_several(several, tmp_path):
    name = f"tiny_texts_{several}".lower()
    feature = tfds.features.Sequence(TEXT) if several else TEXT
    captions = [[f"Number {i}"] if several else f"Number {i}" for i in range(5)]
    store(name, feature, captions, tmp_path, "says")
    splits = data.read_splits(Config(f"tfds:{name}", caption_column="says"))
    captions = datasets.join(splits.values()).captions
    assert sorted(captions) == [(f"number {i}",) for i in range(5)]
    with pytest.raises(BadInput, match=r"has no feature caption, only .*--caption-co"):
        data.read_splits(Config(f"tfds:{name}"))
    with pytest.raises(BadInput, match=r"no `photo`; .* for image captioning"):
        data.read_splits(Config(f"tfds:{name}", image_column="photo"))


@pytest.mark.parametrize("feature", [np.int64, tfds.features.Sequence(np.int64)])
def test_features_that_are_not_text_are_refused(feature, tmp_path):
    is_sequence = feature != np.int64
    name = f"tiny_numbers_{is_sequence}".lower()
    store(name, feature, [[7] if is_sequence else 7] * 3, tmp_path, "caption")
    with pytest.raises(BadInput, match=r"`caption` is not text; .*--caption-column"):
        data.read_splits(Config(f"tfds:{name}"))


def test_data_sets_without_captions_are_refused(tmp_path):
    store("tiny_silence", TEXT, ["", "!"] * 2, tmp_path)
    with pytest.raises(BadInput, match="tfds:tiny_silence has no captions; choose"):
        data.load_examples(Config("tfds:tiny_silence"))
