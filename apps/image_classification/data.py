"""Images and their classes, from wherever they are to batches."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from apps.common import datasets, images
from apps.common.errors import BadInput

CACHE_BYTES = 2 * 2**30  # Decoded images that take less are kept in memory.


@dataclass(frozen=True)
class Examples:
    """Images and their labels.

    Attributes:
        names: Where each image came from; a path unless `encoded` is given.
        labels: Class numbers, int `(examples,)`.
        encoded: The encoded images, if they are in memory.
    """

    names: list[str]
    labels: np.ndarray
    encoded: list[bytes] | None = None

    def __len__(self):
        """Returns the number of images."""
        return len(self.names)

    def __getitem__(self, indices):
        """Returns the examples at these indices."""
        return Examples(
            [self.names[i] for i in indices],
            self.labels[indices],
            self.encoded and [self.encoded[i] for i in indices],
        )

    def image_bytes(self, index):
        """Returns one encoded image."""
        if self.encoded:
            return self.encoded[index]
        return Path(self.names[index]).read_bytes()


def load_examples(data, validation_fraction, seed):
    """Finds the images of a data set and splits them.

    What the data has no split for is held out from the training images, as
    `datasets.complete_splits` describes.

    Args:
        data: A folder, `tfds:NAME` or `digits`, as in `Config.data`.
        validation_fraction: Share of the training images held out for validation.
        seed: Decides which images are held out.

    Returns:
        The `Examples` of `train`, `validation` and `test`, and the class names.

    Raises:
        BadInput: The data cannot be used.
    """
    if data == "digits":
        splits, class_names = _digits()
    elif data.startswith("tfds:"):
        splits, class_names = _tensorflow_dataset(data.removeprefix("tfds:"))
    else:
        splits, class_names = _folder(Path(data))
    splits = datasets.complete_splits(
        splits, validation_fraction, seed, data, class_names
    )
    for split, examples in splits.items():
        if not len(examples):
            raise BadInput(f"{data} has no readable image for {split}; add some")
    return splits, class_names


def load_split(data, split, validation_fraction, seed, foreign=False):
    """Returns the examples of one split, and the class names.

    Args:
        data: As for `load_examples`.
        split: `train`, `validation`, `test`, or `all` of them.
        validation_fraction: As for `load_examples`.
        seed: As for `load_examples`.
        foreign: Whether it is other data than the model was trained on. Of that, a
            folder that itself is a split, such as `flowers/val`, is taken whole.
    """
    is_split = Path(data).name in sum(datasets.SPLIT_NAMES.values(), ())
    if foreign and is_split and Path(data).is_dir():
        class_names = _class_names([Path(data)])
        return _class_folders(Path(data), class_names), class_names
    splits, class_names = load_examples(data, validation_fraction, seed)
    if split == "all":
        return _join(splits.values()), class_names
    return splits[split], class_names


def make_batches(examples, config, num_classes, training=False):
    """Returns batches of images and one-hot labels.

    Args:
        examples: What to load.
        config: Gives the batch size, the image size and the augmentation.
        num_classes: Length of the one-hot labels.
        training: Whether to shuffle and to augment.

    Returns:
        A `tf.data.Dataset` of `(batch, size, size, 3)` images from 0 to 255 and
        `(batch, classes)` labels.
    """
    sources = tf.constant(examples.encoded or examples.names)
    labels = tf.constant(examples.labels, tf.int32)

    def load(source, label):
        image_bytes = source if examples.encoded else tf.io.read_file(source)
        image = images.resize_image(images.decode_image(image_bytes), config.image_size)
        return image, tf.one_hot(label, num_classes)

    def shuffle(dataset):
        return dataset.shuffle(len(examples), seed=config.seed) if training else dataset

    loaded = tf.data.Dataset.from_tensor_slices((sources, labels))
    if len(examples) * 3 * 4 * config.image_size**2 <= CACHE_BYTES:
        loaded = loaded.map(load, num_parallel_calls=tf.data.AUTOTUNE).cache()
        loaded = shuffle(loaded)
    else:
        loaded = shuffle(loaded).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    batches = loaded.batch(config.batch_size)
    if training:
        augment = build_augmentation(config)
        batches = batches.map(
            lambda pictures, labels: (augment(pictures, training=True), labels),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return batches.prefetch(2)


def build_augmentation(config):
    """Returns the random changes that training images go through, as one model."""
    size = config.image_size
    # Pixels stay float32, whatever the precision of the training.
    common = {"seed": config.seed, "dtype": "float32"}
    changes = []
    if config.flip:
        changes.append(keras.layers.RandomFlip("horizontal", **common))
    if config.rotation:
        changes.append(
            keras.layers.RandomRotation(
                config.rotation / 360, fill_mode="nearest", **common
            )
        )
    if config.crop_area < 1:
        changes.append(
            keras_cv.layers.RandomCropAndResize(
                target_size=(size, size),
                crop_area_factor=(config.crop_area, 1.0),
                aspect_ratio_factor=(3 / 4, 4 / 3),
                **common,
            )
        )
    if config.color:
        changes.append(images.color_jitter(config.color, config.seed))
    return keras.Sequential([keras.Input((size, size, 3), dtype="float32"), *changes])


def _digits():
    """Scikit-learn's digits, encoded as the PNG files that a client would send."""
    digits = load_digits()

    def png(pixels):
        file = io.BytesIO()
        Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).save(file, "PNG")
        return file.getvalue()

    examples = Examples(
        [f"digit {i}" for i in range(len(digits.images))],
        digits.target,
        [png(pixels) for pixels in digits.images],
    )
    return {"train": examples}, [str(name) for name in digits.target_names]


def _tensorflow_dataset(name):
    """A data set of TensorFlow Datasets; its encoded images are held in memory."""
    import tensorflow_datasets as tfds  # Slow to import, and seldom needed.

    sources, features = datasets.read_tensorflow_dataset(
        name,
        ("image", "label"),
        "image classification",
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    splits = {
        split: Examples(
            [f"{name} {split} {i}" for i in range(len(records))],
            np.array([record["label"] for record in records]),
            [record["image"] for record in records],
        )
        for split, records in sources.items()
    }
    return splits, features["label"].names


def _folder(root):
    """Class folders, either directly or below split folders."""
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
        split: _class_folders(folder, class_names) for split, folder in folders.items()
    }
    absent = set(range(len(class_names))) - set(splits["train"].labels)
    if absent:
        raise BadInput(
            f"{folders['train']} has no readable image of the class "
            f"{class_names[min(absent)]}; add some, or delete the class everywhere"
        )
    return splits, class_names


def _class_names(folders):
    return sorted(
        {
            path.name
            for folder in folders
            for path in folder.iterdir()
            if path.is_dir()
            and not path.name.startswith(".")
            and images.list_images(path)
        }
    )


def _class_folders(folder, class_names):
    """The readable images of one folder of class folders; names those it skips."""
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if (folder / name).is_dir():
            found = images.list_images(folder / name)
            paths += found
            labels += [label] * len(found)
    readable, problems = images.skip_unreadable(paths)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    examples = Examples([str(path) for path in paths], np.array(labels, int))
    return examples[np.flatnonzero(readable)]


def _join(parts):
    parts = list(parts)
    encoded = parts[0].encoded and [image for part in parts for image in part.encoded]
    return Examples(
        [name for part in parts for name in part.names],
        np.concatenate([part.labels for part in parts]),
        encoded,
    )
