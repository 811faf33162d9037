"""Images and their classes: from folders to batches."""

from dataclasses import dataclass, replace
from pathlib import Path

import keras
import keras_cv
import numpy as np
import tensorflow as tf

from apps.common import datasets, images
from apps.common.errors import BadInput
from apps.image_classification import embedded


@dataclass(frozen=True)
class Examples:
    """Images and their labels.

    Attributes:
        names: The names of the images; relative paths if they are files.
        images: The encoded images, bytes, or their paths.
        labels: The class of each image, int `(examples,)`.
        class_names: The names of the classes.
    """

    names: list[str]
    images: list[bytes | Path]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self):
        """Returns the number of images."""
        return len(self.names)

    def image_bytes(self, index):
        """Returns one encoded image."""
        image = self.images[index]
        return image if isinstance(image, bytes) else image.read_bytes()


def load_examples(config, held_out=None):
    """Reads the images of a data set and completes its splits.

    Args:
        config: A `Config`.
        held_out: As for `datasets.complete_splits`.

    Returns:
        `datasets.Splits` of `Examples`.

    Raises:
        BadInput: The data cannot be used.
    """
    splits = read_splits(config)
    if "train" not in splits:
        raise BadInput(
            f"{config.data} has a folder for {next(iter(splits))} but no folder train; "
            "add one, or pass the folder that holds the class folders"
        )
    splits = _keep_trained_classes(splits, config.data)
    class_names = splits["train"].class_names
    if len(class_names) < 2:
        raise BadInput(
            f"{config.data} has {len(class_names)} class folder with training images"
            f"{''.join(f': {name}' for name in class_names)}; a classifier needs at "
            "least two, each a subfolder with the images of one class"
        )
    splits = datasets.complete_splits(splits, config, held_out)
    for split, examples in splits.items():
        if not len(examples):
            raise BadInput(f"{config.data} has no readable image for {split}; add some")
    return splits


def load_split(config, split, is_other_data=False, held_out=None):
    """Returns the `Examples` of one split.

    Args:
        config: A `Config`.
        split: As for `datasets.pick_split`.
        is_other_data: Whether it is other data than the model was trained on. If such
            data does not have this split, all of it is returned.
        held_out: As for `datasets.complete_splits`.

    Raises:
        BadInput: The data cannot be used.
    """
    if is_other_data:
        return datasets.pick_other_split(read_splits(config), split, config.data)
    return datasets.pick_split(load_examples(config, held_out), split, config.data)


def read_splits(config):
    """Returns the `Examples` of each split that the data has.

    Files that cannot be used are reported and skipped.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "digits":
        encoded, labels, class_names = embedded.digits()
        names = [f"digit {i}" for i in range(len(encoded))]
        return {"train": Examples(names, encoded, labels, class_names)}
    if config.data.startswith("tfds:"):
        return _tensorflow_dataset(config.data.removeprefix("tfds:"))
    return _folder(Path(config.data))


def make_batches(examples, config, training=False):
    """Returns batches of images and one-hot labels.

    Args:
        examples: The `Examples` to load.
        config: Gives the batch size, the size of images and the augmentation.
        training: Whether to shuffle and to augment.

    Returns:
        A `tf.data.Dataset` of `(batch, size, size, 3)` images from 0 to 255 and
        `(batch, classes)` labels.
    """
    is_encoded = isinstance(examples.images[0], bytes)
    sources = tf.constant(
        examples.images if is_encoded else list(map(str, examples.images))
    )
    labels = tf.constant(examples.labels, tf.int32)
    num_classes = len(examples.class_names)

    def load(source, label):
        image_bytes = source if is_encoded else tf.io.read_file(source)
        image = images.decode_image(image_bytes)
        image = images.resize_image(image, config.image_size, config.resize)
        return image, tf.one_hot(label, num_classes)

    dataset = images.load_and_shuffle(
        tf.data.Dataset.from_tensor_slices((sources, labels)),
        load,
        num_bytes=len(examples) * 3 * 4 * config.image_size**2,
        seed=config.seed if training else None,
    )
    batches = dataset.batch(config.batch_size)
    if training:
        augment = build_augmentation(config)
        batches = batches.map(
            lambda images, labels: (augment(images, training=True), labels),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return batches.prefetch(2)


def build_augmentation(config):
    """Returns a model that changes training images at random."""
    size = config.image_size
    # Pixels stay float32 in every precision.
    common = {"seed": config.seed, "dtype": "float32"}
    augmentation = []
    if config.flip:
        augmentation.append(keras.layers.RandomFlip("horizontal", **common))
    if config.rotation:
        augmentation.append(
            keras.layers.RandomRotation(
                config.rotation / 360, fill_mode="nearest", **common
            )
        )
    if config.crop_area < 1:
        augmentation.append(
            keras_cv.layers.RandomCropAndResize(
                target_size=(size, size),
                crop_area_factor=(config.crop_area, 1.0),
                aspect_ratio_factor=(3 / 4, 4 / 3),
                **common,
            )
        )
    if config.color:
        augmentation.append(images.color_jitter(config.color, config.seed))
    return keras.Sequential(
        [keras.Input((size, size, 3), dtype="float32"), *augmentation]
    )


def _tensorflow_dataset(name):
    """Returns the splits of a data set of TensorFlow Datasets; images stay encoded."""
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    sources, features = datasets.read_tensorflow_dataset(
        name,
        ("image", "label"),
        "image classification",
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    return {
        split: Examples(
            [f"{name} {split} {i}" for i in range(len(records))],
            [record["image"] for record in records],
            np.array([record["label"] for record in records]),
            tuple(features["label"].names),
        )
        for split, records in sources.items()
    }


def _keep_trained_classes(splits, data):
    """Leaves out classes without training images, and reports their images."""
    class_names = splits["train"].class_names
    trained = np.unique(splits["train"].labels)
    if len(trained) == len(class_names):
        return splits
    datasets.print_skipped(
        (name, f"is of a class without training images in {data}")
        for examples in splits.values()
        for name, label in zip(examples.names, examples.labels, strict=True)
        if label not in trained
    )
    kept = {}
    for split, examples in splits.items():
        examples = datasets.take(
            examples, np.flatnonzero(np.isin(examples.labels, trained))
        )
        kept[split] = replace(
            examples,
            labels=np.searchsorted(trained, examples.labels),
            class_names=tuple(class_names[label] for label in trained),
        )
    return kept


def _folder(root):
    """Returns the splits of a folder: class folders, or split folders of them."""
    if not root.is_dir():
        raise BadInput(
            f"there is no folder {root}; pass --data FOLDER with one subfolder of "
            "images per class"
        )
    folders = {
        split: path
        for split, names in datasets.SPLIT_NAMES.items()
        for path in sorted(root.iterdir())
        if path.is_dir() and path.name.lower() in names
    }
    if folders:
        datasets.print_skipped(
            (_name(path, root), "is in no split folder")
            for path in images.list_files(root)
            if not any(map(path.is_relative_to, folders.values()))
        )
    read = {
        split: _class_folders(folder, root)
        for split, folder in (folders or {"train": root}).items()
    }
    class_names = sorted({name for rows in read.values() for *_, name in rows})
    if not class_names:
        raise BadInput(
            f"{root} has no class folder with images; make a subfolder for the images "
            "of each class"
        )
    return {
        split: Examples(
            [_name(path, root) for path, _, _ in rows],
            [file for _, file, _ in rows],
            np.array([class_names.index(name) for *_, name in rows], int),
            tuple(class_names),
        )
        for split, rows in read.items()
    }


def _class_folders(folder, root):
    """Reads a folder of class folders, and reports files that cannot be used.

    Returns:
        For each image its path, the file to decode, and the name of its class.
    """
    paths = images.list_files(folder)
    loose = [path for path in paths if path.parent == folder]
    paths = [path for path in paths if path.parent != folder]
    files, skipped = images.make_decodable(paths)
    rows = [
        (path, file, path.relative_to(folder).parts[0])
        for path, file in zip(paths, files, strict=True)
        if file
    ]
    skipped += [(path, "is in no class folder") for path in loose]
    datasets.print_skipped((_name(path, root), reason) for path, reason in skipped)
    class_names = {name for *_, name in rows}
    datasets.print_skipped(
        (
            (_name(path, root), "has no readable image")
            for path in sorted(folder.iterdir())
            if path.is_dir() and path.name not in class_names and path.name[0] != "."
        ),
        unit="folder",
    )
    return rows


def _name(path, root):
    """Returns the path of a file or folder below `root`."""
    return path.relative_to(root).as_posix()
