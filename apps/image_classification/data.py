"""Images and their classes: from folders to batches."""

import sys
from dataclasses import dataclass
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
    if config.data == "digits":
        encoded, labels, class_names = embedded.digits()
        names = [f"digit {i}" for i in range(len(encoded))]
        splits = {"train": Examples(names, encoded, labels, class_names)}
    elif config.data.startswith("tfds:"):
        splits = _tensorflow_dataset(config.data.removeprefix("tfds:"))
    else:
        splits = _folder(Path(config.data))
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
        is_other_data: Whether it is other data than the model was trained on. A folder
            of such data that itself is a split, such as `flowers/val`, is taken whole.
        held_out: As for `datasets.complete_splits`.

    Raises:
        BadInput: The data cannot be used.
    """
    root = Path(config.data)
    is_split = root.name in sum(datasets.SPLIT_NAMES.values(), ())
    if is_other_data and is_split and root.is_dir():
        return _class_folders(root, _class_names([root]), root)
    return datasets.pick_split(load_examples(config, held_out), split, config.data)


def make_batches(examples, config, training=False):
    """Returns batches of images and one-hot labels.

    Args:
        examples: The `Examples` to load.
        config: Gives the batch size, the image size and the augmentation.
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
        image = images.resize_image(images.decode_image(image_bytes), config.image_size)
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
    if not folders:
        folders = {"train": root}
    if "train" not in folders:
        raise BadInput(
            f"{root} has a folder {next(iter(folders.values())).name} but no folder "
            "train; add one, or pass the folder that holds the class folders"
        )
    class_names = _class_names(folders.values())
    if len(class_names) < 2:
        raise BadInput(
            f"{root} has {len(class_names) or 'no'} class folder with images"
            f"{': ' + class_names[0] if class_names else ''}; a classifier needs at "
            "least two, each a subfolder with the images of one class"
        )
    splits = {
        split: _class_folders(folder, class_names, root)
        for split, folder in folders.items()
    }
    absent = set(range(len(class_names))) - set(splits["train"].labels)
    if absent:
        raise BadInput(
            f"{folders['train']} has no readable image of the class "
            f"{class_names[min(absent)]}; add some, or delete the class everywhere"
        )
    return splits


def _class_names(folders):
    """Returns the names of the subfolders with images, sorted."""
    names = {
        path.name
        for folder in folders
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and images.list_images(path)
    }
    return tuple(sorted(names))


def _class_folders(folder, class_names, root):
    """Returns the readable images of a folder of class folders, named below `root`."""
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if (folder / name).is_dir():
            found = images.list_images(folder / name)
            paths += found
            labels += [label] * len(found)
    is_readable, problems = images.find_readable(paths)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    names = [path.relative_to(root).as_posix() for path in paths]
    examples = Examples(names, paths, np.array(labels, int), class_names)
    return datasets.take(examples, np.flatnonzero(is_readable))
