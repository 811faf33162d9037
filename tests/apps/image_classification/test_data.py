import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from apps.common import datasets
from apps.image_classification import data
from apps.image_classification.config import CONFIGS, Config
from tests.apps.image_classification.conftest import COLORS, write_photos


def labels_of(examples):
    return np.bincount(examples.labels).tolist()


def test_class_folders_are_split_with_equal_shares_of_every_class(own_data):
    splits = data.load_examples(Config(str(own_data), validation_fraction=0.1))
    assert labels_of(splits["test"]) == [2, 2, 2]
    assert labels_of(splits["validation"]) == [1, 1, 1]
    assert labels_of(splits["train"]) == [5, 5, 5]
    names = [name for split in splits.values() for name in split.names]
    assert len(set(names)) == 24  # No image in two splits.
    for examples in splits.values():
        assert examples.class_names == ("blue", "green", "red")
        for name, label in zip(examples.names, examples.labels, strict=True):
            assert examples.class_names[label] == name.split("/")[0]


def test_splits_depend_on_the_seed_alone(own_data):
    first, again, other = (
        data.load_examples(Config(str(own_data), seed=seed))["test"].names
        for seed in (0, 0, 1)
    )
    assert first == again != other


def arrange(photos, root, **splits):
    """Copies the images of these numbers into split folders."""
    for split, numbers in splits.items():
        for path in photos.rglob("*.jpg"):
            if int(path.stem.split("_")[1]) in numbers:
                target = root / split / path.parent.name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def test_a_val_folder_alone_is_for_testing(own_data, tmp_path):
    arrange(own_data, tmp_path, train=range(6), val=range(6, 8))
    splits = data.load_examples(Config(str(tmp_path), validation_fraction=0.1))
    assert all(name.startswith("val/") for name in splits["test"].names)
    assert len(splits["test"]) == 6
    # The images that choose the epoch come from the training images.
    assert all(name.startswith("train/") for name in splits["validation"].names)
    assert len(splits["validation"]) == 3


def test_three_split_folders_are_kept(own_data, tmp_path):
    arrange(own_data, tmp_path, train=range(5), valid=range(5, 6), test=range(6, 8))
    splits = data.load_examples(Config(str(tmp_path)))
    assert datasets.sizes(splits) == {"train": 15, "validation": 3, "test": 6}
    assert all(name.startswith("valid/") for name in splits["validation"].names)


def test_a_split_folder_of_other_data_is_scored_whole(own_data, tmp_path):
    arrange(own_data, tmp_path, train=range(6), val=range(6, 8))
    config = Config(str(tmp_path / "train"))
    examples = data.load_split(config, "test", is_other_data=True)
    assert len(examples) == 18
    assert examples.class_names == ("blue", "green", "red")
    # Unless the model was trained on it.
    assert len(data.load_split(config, "test")) < 18
    assert len(data.load_split(Config(str(tmp_path)), "all")) == 24


def test_the_digits_are_encoded_images_and_a_quarter_is_for_testing():
    config = Config("digits")
    splits = data.load_examples(config)
    assert splits["train"].class_names == tuple("0123456789")
    assert len(splits["test"]) == round(1797 / 4)
    everything = data.load_split(config, "all")
    assert len(set(everything.names)) == 1797
    assert everything.image_bytes(0).startswith(b"\x89PNG")


def test_what_cannot_be_used_is_named_with_the_reason(own_data, tmp_path, capsys):
    mine = shutil.copytree(own_data, tmp_path / "mine")
    whole = (mine / "red/red_0.jpg").read_bytes()
    (mine / "red/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (mine / "blue/text.jpg").write_text("no image")
    (mine / "blue/notes.txt").write_text("three blue images")
    (mine / "blue/.DS_Store").write_text("hidden")
    (mine / "loose.jpg").write_bytes(whole)
    (mine / "empty").mkdir()
    data.load_examples(Config(str(mine)))
    skipped = capsys.readouterr().err
    assert skipped.splitlines() == [
        "skipped 2 files: is not an image; use JPEG or PNG files: blue/notes.txt, "
        "blue/text.jpg",
        "skipped 1 file: is damaged or truncated; replace it: red/truncated.jpg",
        "skipped 1 file: is in no class folder: loose.jpg",
        "skipped 1 folder: has no readable image: empty",
    ]
    # An evaluation says the same.
    for is_other_data in (False, True):
        examples = data.load_split(Config(str(mine)), "all", is_other_data)
        assert len(examples) == 24
        assert examples.class_names == ("blue", "green", "red")
        assert capsys.readouterr().err == skipped


def test_images_in_nested_folders_are_of_the_class_above(own_data, tmp_path):
    mine = shutil.copytree(own_data, tmp_path / "mine")
    (mine / "red/2024/may").mkdir(parents=True)
    for path in list((mine / "red").glob("*.jpg"))[:3]:
        path.rename(mine / "red/2024/may" / path.name)
    examples = data.load_split(Config(str(mine)), "all")
    assert labels_of(examples) == [8, 8, 8]
    nested = [name for name in examples.names if name.startswith("red/2024/may/")]
    assert len(nested) == 3


def test_images_that_tensorflow_does_not_decode_are_converted(own_data, tmp_path):
    mine = shutil.copytree(own_data, tmp_path / "mine")
    for path in (mine / "red").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"))
        path.unlink()
    config = Config(str(mine), image_size=24)
    examples = data.load_split(config, "all")
    assert labels_of(examples) == [8, 8, 8]
    converted = {name for name in examples.names if name.endswith(".webp")}
    assert converted == {f"red/red_{i}.webp" for i in range(8)}
    images = np.concatenate([batch for batch, _ in data.make_batches(examples, config)])
    color = images[examples.labels == 2].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(color, COLORS["red"], atol=15)


def test_classes_without_training_images_are_named_and_left_out(
    own_data, tmp_path, capsys
):
    arrange(own_data, tmp_path, train=range(6), test=range(6, 8))
    (tmp_path / "test/blue").rename(tmp_path / "test/brown")
    (tmp_path / "others").mkdir()
    shutil.copy(own_data / "red/red_0.jpg", tmp_path / "others")
    splits = data.load_examples(Config(str(tmp_path)))
    assert splits["test"].class_names == ("blue", "green", "red")
    assert labels_of(splits["test"]) == [0, 2, 2]
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 file: is in no split folder: others/red_0.jpg",
        f"skipped 2 files: is of a class without training images in {tmp_path}: "
        "test/brown/blue_6.jpg, test/brown/blue_7.jpg",
    ]
    other = data.load_split(Config(str(tmp_path)), "test", is_other_data=True)
    assert other.class_names == ("blue", "brown", "green", "red")
    assert len(other) == 6


def test_other_data_without_splits_is_taken_whole(own_data, tmp_path, capsys):
    config = Config(str(own_data))
    assert len(data.load_split(config, "test", is_other_data=True)) == 24
    out = capsys.readouterr().out
    assert f"{own_data} has no split 'test'; all 24 examples are scored" in out
    # A single class, or a test split alone, can be scored too.
    arrange(own_data, tmp_path / "some", test=range(2))
    shutil.rmtree(tmp_path / "some/test/blue")
    shutil.rmtree(tmp_path / "some/test/red")
    config = Config(str(tmp_path / "some"))
    assert len(data.load_split(config, "test", is_other_data=True)) == 2


def test_two_images_of_a_class_are_enough(tmp_path):
    splits = data.load_examples(Config(str(write_photos(tmp_path, numbers=range(2)))))
    assert labels_of(splits["train"]) == labels_of(splits["test"]) == [1, 1, 1]
    assert len(splits["validation"])


def test_tensorflow_datasets_are_read(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        (i, {"image": rng.integers(0, 256, (12, 10, 3), "uint8"), "label": i % 2})
        for i in range(20)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_images",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
        ),
        split_datasets={"train": records[:16], "test": records[16:]},
        data_dir=tmp_path,
    )
    tfds.core.add_data_dir(tmp_path)
    config = Config(
        "tfds:tiny_images", validation_fraction=0.25, image_size=12, batch_size=4
    )
    splits = data.load_examples(config)
    assert datasets.sizes(splits) == {"train": 12, "validation": 4, "test": 4}
    assert splits["test"].class_names == ("cat", "dog")
    images, labels = next(iter(data.make_batches(splits["test"], config)))
    assert images.shape == (4, 12, 12, 3)
    assert labels.numpy().sum(axis=1).tolist() == [1, 1, 1, 1]


def test_batches_hold_the_images_with_their_labels(tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for j in range(4):
            pixels = np.full((6, 6, 3), 50 * i + 10 * j, "uint8")
            Image.fromarray(pixels).save(tmp_path / name / f"{j}.png")
    config = Config(str(tmp_path), image_size=6, batch_size=3, crop_area=1, flip=False)
    examples = data.load_split(config, "all")
    for training in (False, True):
        batches = list(data.make_batches(examples, config, training=training))
        assert [len(images) for images, _ in batches] == [3, 3, 2]
        pairs = {
            (float(image[0, 0, 0]), int(np.argmax(label)))
            for images, labels in batches
            for image, label in zip(images, labels, strict=True)
        }
        assert pairs == {(50 * i + 10 * j, i) for i in range(2) for j in range(4)}


def test_only_training_images_are_augmented(own_data):
    config = Config(
        str(own_data), image_size=24, rotation=20, color=0.3, crop_area=0.5, flip=True
    )
    examples = data.load_split(config, "all")
    plain = [next(iter(data.make_batches(examples, config)))[0] for _ in range(2)]
    np.testing.assert_array_equal(*plain)
    augmented = data.build_augmentation(config)(plain[0], training=True)
    assert augmented.shape == plain[0].shape
    assert np.abs(augmented - plain[0]).mean() > 5
    assert np.asarray(augmented).min() >= 0
    assert np.asarray(augmented).max() <= 255.1


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)
