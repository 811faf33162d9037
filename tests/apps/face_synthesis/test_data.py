import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from apps.common import datasets
from apps.common.errors import BadInput
from apps.face_synthesis import data
from apps.face_synthesis.attributes import Attribute
from tests.apps.face_synthesis.tiny import small


def write_images(folder, *names, size=(8, 6), mode="RGB"):
    """Writes an image of random pixels under each name."""
    random = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*size[::-1], 3), "uint8")
        Image.fromarray(pixels).convert(mode).save(folder / name)


def write_table(path, *rows):
    path.write_text("\n".join(rows) + "\n", "utf-8")


def read(path, split="all", **changes):
    """Returns the attributes of all examples by the names of the images."""
    examples = data.load_split(small(path, **changes), split, is_other_data=True)
    return dict(zip(examples.names, examples.attributes, strict=True))


def test_a_folder_needs_no_attributes(tmp_path, capsys):
    write_images(tmp_path, "a.png", "b.jpg", "deep/c.png")
    assert read(tmp_path) == {"a.png": (), "b.jpg": (), "deep/c.png": ()}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", data.TABLES)
def test_a_table_of_attributes_is_found(name, tmp_path):
    write_images(tmp_path, "images/a.png", "images/b.jpg")
    tab = "\t" if name.endswith("tsv") else ","
    rows = [
        ["image", "age", "smiling"],
        ["a.png", " 7 ", "yes"],
        ["images/b.jpg", "", "no"],
    ]
    write_table(tmp_path / name, *map(tab.join, rows))
    assert read(tmp_path) == {"images/a.png": ("7", "yes"), "images/b.jpg": ("", "no")}
    assert read(tmp_path, columns=("smiling",))["images/a.png"] == ("yes",)
    named = read(tmp_path, value_names=("smiling:yes=happy", "age:7=seven"))
    assert named["images/a.png"] == ("seven", "happy")


def test_a_table_may_lie_elsewhere(tmp_path, monkeypatch):
    write_images(tmp_path / "faces", "a.png")
    write_table(tmp_path / "mine.csv", "file;sex", "a.png;f")
    settings = {"image_column": "file", "attribute_file": str(tmp_path / "mine.csv")}
    assert read(tmp_path / "faces", **settings) == {"a.png": ("f",)}
    monkeypatch.chdir(tmp_path)
    settings["attribute_file"] = "mine.csv"
    assert read(tmp_path / "faces", **settings) == {"a.png": ("f",)}


def test_splits_are_folders_or_a_column(tmp_path):
    write_images(tmp_path / "a", "train/a.png", "Test/b.png", "val/c.png", "d.png")
    sizes = datasets.sizes(data.read_splits(small(tmp_path / "a")))
    assert sizes == {"train": 2, "validation": 1, "test": 1}
    write_images(tmp_path / "b", "a.png", "b.png", "c.png")
    rows = ["image,split,sex", "a.png,train,f", "b.png,test,m"]
    write_table(tmp_path / "b/labels.csv", *rows)
    splits = data.read_splits(small(tmp_path / "b"))
    assert datasets.sizes(splits) == {"train": 2, "test": 1}
    assert splits["train"].columns == ("sex",)
    write_table(tmp_path / "b/labels.csv", "image,Split", "a.png,", "b.png,TEST")
    splits = data.read_splits(small(tmp_path / "b"))
    assert (datasets.sizes(splits), splits["train"].columns) == (
        {"train": 2, "test": 1},
        (),
    )
    write_table(tmp_path / "b/labels.csv", "image,split", "a.png,holdout")
    with pytest.raises(BadInput, match=r"has the split 'holdout' for a.png; write tr"):
        data.read_splits(small(tmp_path / "b"))


def test_rows_and_images_that_do_not_match_are_reported(tmp_path, capsys):
    write_images(tmp_path, "x/a.png", "y/a.png", "b.png")
    (tmp_path / "notes.txt").write_text("no image")
    rows = ["image,sex", "a.png,f", "b.png,m", "b.png,f", "nowhere.png,f", "y/a.png,m"]
    write_table(tmp_path / "labels.csv", *rows)
    expected = {"x/a.png": ("",), "y/a.png": ("m",), "b.png": ("m",)}
    assert read(tmp_path) == expected
    err = capsys.readouterr().err
    assert "skipped 1 file: is not an image; use JPEG or PNG files: notes.txt" in err
    assert "skipped 2 rows: there is no such image: line 2, a.png, line 5, no" in err
    assert "skipped 1 row: the image has a row already: line 4, b.png" in err


def test_images_without_an_attribute_are_left_out_and_named(tmp_path, capsys):
    attributes = (Attribute("sex", ("f", "m")), Attribute("age", ("a", "b"), (5.0,)))
    rows = [("f", "3"), ("", "4"), ("m", "old"), ("m", "9")]
    examples = data.Examples(["w", "x", "y", "z"], [b""] * 4, rows, ("sex", "age"))
    splits = {"train": examples}
    codes = data.keep_complete(splits, attributes)["train"]
    assert (splits["train"].names, codes.tolist()) == (["w", "z"], [[0, 0], [1, 1]])
    err = capsys.readouterr().err
    assert "skipped 1 image: has no known sex: x" in err
    assert "skipped 1 image: has no known age: y" in err
    assert data.keep_complete(splits, ())["train"].shape == (2, 0)
    splits = {"test": datasets.take(examples, [1, 2])}
    with pytest.raises(BadInput, match="no image for test has all attributes; comp"):
        data.keep_complete(splits, attributes)


def test_images_of_any_mode_and_size_are_read(tmp_path, capsys):
    modes = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"]
    for i, mode in enumerate(modes):
        pixels = np.random.default_rng(i).integers(
            0, 256, (9 + 5 * i, 40 - i, 3), "uint8"
        )
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype("uint16") * 257)
        else:
            image = image.convert(mode)
        image.save(tmp_path / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    write_images(tmp_path, "web.webp", "tagged.tiff", "tiny.bmp", size=(1, 1))
    examples = data.load_split(small(tmp_path), "all", is_other_data=True)
    pixels = data.load_pixels(examples, small(tmp_path))
    assert len(examples) == len(modes) + 3
    assert pixels.shape == (len(examples), 16, 16, 3)
    assert pixels.dtype == "uint8"
    assert pixels[: len(modes)].std(axis=(1, 2, 3)).min() > 5
    assert capsys.readouterr().err == ""


@pytest.fixture
def examples(tmp_path):
    write_images(tmp_path, *(f"{i}.png" for i in range(5)), size=(16, 16))
    return data.load_split(small(tmp_path), "all", is_other_data=True)


def test_an_epoch_repeats_few_images(examples):
    values = np.eye(5, dtype="float32")
    config = small(batch_size=4, steps_per_epoch=6)
    batches = data.make_batches(examples, values, config, training=True)
    assert len(batches) == 6
    orders = []
    for _ in range(2):
        images, found = (np.concatenate(each) for each in zip(*batches, strict=True))
        counts = found.sum(axis=0)
        assert counts.min() >= 4
        assert len(found) == 24
        orders.append(found.argmax(axis=1))
        pixels = data.load_pixels(examples, config)
        np.testing.assert_array_equal(images, pixels[orders[-1]])
    assert (orders[0] != orders[1]).any()
    again = data.make_batches(examples, values, config, training=True)
    found = np.concatenate([found for _, found in again]).argmax(axis=1)
    np.testing.assert_array_equal(found, orders[0])


def test_other_batches_have_each_image_once(examples):
    values = np.eye(5, dtype="float32")
    batches = data.make_batches(examples, values, small(batch_size=4))
    found = np.concatenate([found for _, found in batches])
    np.testing.assert_array_equal(found, values)


def test_few_images_are_warned_of(examples, capsys):
    data.print_expectation(examples)
    out = capsys.readouterr().out
    assert out.startswith("only 5 images to learn from: the faces will be copies")
    data.print_expectation(datasets.join([examples] * 10))
    assert capsys.readouterr().out == ""


def test_a_dataset_of_tensorflow_datasets_is_read(monkeypatch):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "age": tfds.features.Scalar(np.int64),
            "box": tfds.features.BBoxFeature(),
            "attributes": {"Smiling": tfds.features.Scalar(np.bool_)},
        }
    )
    record = {
        "image": b"png",
        "label": np.int64(1),
        "age": np.int64(7),
        "attributes": {"Smiling": np.bool_(True)},
    }
    other = {**record, "label": np.int64(-1)}
    monkeypatch.setattr(
        datasets,
        "read_tensorflow_dataset",
        lambda *arguments, **options: ({"train": [record, other]}, features),
    )
    examples = data.read_splits(small("tfds:people"))["train"]
    found = [
        dict(zip(examples.columns, row, strict=True)) for row in examples.attributes
    ]
    assert found[0] == {"label": "dog", "age": "7", "Smiling": "True"}
    assert found[1]["label"] == ""
    assert examples.names == ["people train 0", "people train 1"]
    some = data.read_splits(small("tfds:people", columns=("Smiling",)))["train"]
    assert some.attributes == [("True",), ("True",)]
    with pytest.raises(BadInput, match="tfds:people has no column 'Smilin'; did you"):
        data.read_splits(small("tfds:people", columns=("Smilin",)))


def test_wrong_tables_are_refused(tmp_path):
    write_images(tmp_path, "a.png")
    with pytest.raises(
        BadInput, match=r"has none of attributes.csv, .* --attribute-file"
    ):
        read(tmp_path, columns=("sex",))
    with pytest.raises(BadInput, match=r"no file --attribute-file nowhere.csv"):
        read(tmp_path, attribute_file="nowhere.csv")
    write_table(tmp_path / "labels.csv", "file,sex,split", "a.png,f,train")
    with pytest.raises(
        BadInput, match="no column 'image', only file, sex, split; name"
    ):
        read(tmp_path)
    with pytest.raises(BadInput, match="no column 'sec'; did you mean 'sex'"):
        read(tmp_path, image_column="file", columns=("sec",))
    with pytest.raises(BadInput, match="--value-names sex=f has not the form of"):
        read(tmp_path, image_column="file", value_names=("sex=f",))
    with pytest.raises(BadInput, match="--value-names names the column 'sec'; did you"):
        read(tmp_path, image_column="file", value_names=("sec:f=female",))
    twice = read(tmp_path, image_column="file", columns=("sex", "sex"))
    assert twice == {"a.png": ("f",)}
    write_table(tmp_path / "labels.csv", "file,sex,sex", "a.png,f,m")
    with pytest.raises(BadInput, match="has 2 columns 'sex'; rename them"):
        read(tmp_path, image_column="file")


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no folder nowhere; pass --data a folder"):
        read("nowhere")
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(BadInput, match="has no image that can be read; add images"):
        read(tmp_path)
    write_images(tmp_path, "test/a.png")
    with pytest.raises(BadInput, match="has images for test, but none for train"):
        data.load_examples(small(tmp_path))
