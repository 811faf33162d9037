import shutil

import numpy as np
import pytest
from PIL import Image

from apps.image_classification import data
from apps.image_classification.config import CONFIGS, Config


def labels_of(examples):
    return np.bincount(examples.labels).tolist()


def test_flat_folders_are_split_with_equal_shares_of_every_class(photos):
    splits, class_names = data.load_examples(str(photos), 0.1, seed=0)
    assert class_names == ["blue", "green", "red"]
    assert labels_of(splits["test"]) == [2, 2, 2]
    assert labels_of(splits["validation"]) == [1, 1, 1]
    assert labels_of(splits["train"]) == [5, 5, 5]
    names = [name for split in splits.values() for name in split.names]
    assert len(set(names)) == 24  # No image in two splits.
    for examples in splits.values():
        for name, label in zip(examples.names, examples.labels, strict=True):
            assert class_names[label] in name


def test_splits_depend_on_the_seed_alone(photos):
    first, again, other = (
        data.load_examples(str(photos), 0.1, seed)[0]["test"].names
        for seed in (0, 0, 1)
    )
    assert first == again != other


def arrange(photos, root, **shares):
    """Copies some images of each class into split folders."""
    for split, numbers in shares.items():
        for path in photos.rglob("*.jpg"):
            if int(path.stem.split("_")[1]) in numbers:
                target = root / split / path.parent.name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def test_a_val_folder_alone_is_for_testing(photos, tmp_path):
    arrange(photos, tmp_path, train=range(6), val=range(6, 8))
    splits, _ = data.load_examples(str(tmp_path), 0.1, seed=0)
    assert all("/val/" in name for name in splits["test"].names)
    assert len(splits["test"]) == 6
    # What chooses the epoch comes from the training images.
    assert all("/train/" in name for name in splits["validation"].names)
    assert len(splits["validation"]) == 3


def test_three_split_folders_are_taken_as_they_are(photos, tmp_path):
    arrange(photos, tmp_path, train=range(5), valid=range(5, 6), test=range(6, 8))
    splits, _ = data.load_examples(str(tmp_path), 0.1, seed=0)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 15,
        "validation": 3,
        "test": 6,
    }
    assert all("/valid/" in name for name in splits["validation"].names)


def test_a_split_folder_itself_is_scored_whole(photos, tmp_path):
    arrange(photos, tmp_path, train=range(6), val=range(6, 8))
    folder = str(tmp_path / "train")
    examples, class_names = data.load_split(folder, "test", 0.1, 0, foreign=True)
    assert (len(examples), class_names) == (18, ["blue", "green", "red"])
    # Unless it is what the model was trained on.
    examples, _ = data.load_split(folder, "test", 0.1, 0)
    assert len(examples) < 18
    everything, _ = data.load_split(str(tmp_path), "all", 0.1, 0)
    assert len(everything) == 24


def test_digits_hold_out_a_quarter_and_come_as_encoded_images():
    splits, class_names = data.load_examples("digits", 0.1, seed=0)
    assert class_names == list("0123456789")
    assert len(splits["test"]) == round(1797 / 4)
    everything, _ = data.load_split("digits", "all", 0.1, 0)
    assert len(everything) == 1797
    assert everything.image_bytes(0).startswith(b"\x89PNG")


def test_tensorflow_datasets_are_read(tmp_path):
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    records = [
        (i, {"image": rng.integers(0, 256, (12, 10, 3), "uint8"), "label": i % 2})
        for i in range(20)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_pictures",
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
    splits, class_names = data.load_examples("tfds:tiny_pictures", 0.25, seed=0)
    assert class_names == ["cat", "dog"]
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [12, 4, 4]
    config = Config("", image_size=12, batch_size=4)
    images, labels = next(iter(data.make_batches(splits["test"], config, 2)))
    assert images.shape == (4, 12, 12, 3)
    assert labels.numpy().sum(axis=1).tolist() == [1, 1, 1, 1]


def test_batches_hold_what_the_files_hold(tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for j in range(4):
            pixels = np.full((6, 6, 3), 50 * i + 10 * j, "uint8")
            Image.fromarray(pixels).save(tmp_path / name / f"{j}.png")
    examples, _ = data.load_split(str(tmp_path), "all", 0.25, 0)
    config = Config("", image_size=6, batch_size=3, crop_area=1, flip=False)
    for training in (False, True):
        batches = list(data.make_batches(examples, config, 2, training=training))
        assert [len(images) for images, _ in batches] == [3, 3, 2]
        pairs = {
            (float(image[0, 0, 0]), int(np.argmax(label)))
            for images, labels in batches
            for image, label in zip(images, labels, strict=True)
        }
        assert pairs == {(50 * i + 10 * j, i) for i in range(2) for j in range(4)}


def test_augmentation_changes_training_images_only(photos):
    examples, _ = data.load_split(str(photos), "all", 0.1, 0)
    config = Config("", image_size=24, rotation=20, color=0.3, crop_area=0.5, flip=True)
    plain = [next(iter(data.make_batches(examples, config, 3)))[0] for _ in range(2)]
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
