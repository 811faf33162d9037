"""Examples: their splits, what is held out, and TensorFlow Datasets.

The examples of an application are of any class with `__len__` and `__getitem__`, which
takes an array of indices, and, where they have classes, `labels`, class numbers, int
`(examples,)`.
"""

from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from apps.common.cli import closest
from apps.common.errors import BadInput

# How people name the files or folders of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
TEST_FRACTION = 0.25


def complete_splits(splits, validation_fraction, seed, data, class_names=None):
    """Holds out of the training examples what the data has no split for.

    Splits that the data has are kept: `test` is for testing, `validation` chooses the
    best epoch. Where only the latter is there, it is for testing. What is missing is
    held out with equal shares of every class: a quarter for testing,
    `validation_fraction` of the rest for validation.

    Args:
        splits: The examples of `train`, and of others that the data has.
        validation_fraction: Share of the training examples held out for validation.
        seed: Decides which examples are held out.
        data: What the data set is called in messages.
        class_names: The names that labels stand for; None if there are no classes.

    Returns:
        The examples of `train`, `validation` and `test`, and of what else `splits` has.

    Raises:
        BadInput: There are too few examples.
    """
    splits = dict(splits)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    for split, fraction in (
        ("test", TEST_FRACTION),
        ("validation", validation_fraction),
    ):
        if split not in splits:
            splits["train"], splits[split] = hold_out(
                splits["train"], fraction, seed, data, class_names
            )
    return splits


def hold_out(examples, fraction, seed, data, class_names=None):
    """Splits off a share of the examples, about the same of every class.

    Args:
        examples: What to split.
        fraction: The share to hold out.
        seed: As for `complete_splits`.
        data: As for `complete_splits`.
        class_names: As for `complete_splits`.

    Returns:
        The examples that are kept, and those held out.

    Raises:
        BadInput: There are fewer than two examples, or of a class.
    """
    labels = examples.labels if class_names else np.zeros(len(examples), int)
    classes = len(class_names or ["all"])
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < 2:
        of_class = (
            f" of the class {class_names[counts.argmin()]}" if class_names else ""
        )
        raise BadInput(
            f"{data} has {counts.min()} usable example{of_class}; add more, so that "
            "some can be held out"
        )
    held_out = max(round(fraction * len(examples)), classes)
    held_out = min(held_out, len(examples) - classes)
    kept, taken = train_test_split(
        np.arange(len(examples)),
        test_size=held_out,
        random_state=seed,
        stratify=labels,
    )
    return examples[kept], examples[taken]


def balanced_weights(labels, num_classes):
    """Returns a weight per class such that all classes count alike, `(classes,)`."""
    counts = np.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * np.maximum(counts, 1))


def is_same(data, other):
    """Returns whether two values of `--data` mean the same data set."""
    return Path(data).resolve() == Path(other).resolve()


def read_tensorflow_dataset(name, features, purpose, decoders=None):
    """Reads a data set of TensorFlow Datasets.

    Args:
        name: The name after `tfds:`.
        features: The features that it must have.
        purpose: What such a data set is made for, for the message.
        decoders: As for `tfds.builder(…).as_dataset`.

    Returns:
        The records of each split, dictionaries of NumPy values, and the description of
        the features. A split is called `train`, `validation` or `test`.

    Raises:
        BadInput: There is no such data set, it has other features or no training split,
            or it cannot be downloaded.
    """
    import tensorflow_datasets as tfds  # Slow to import, and seldom needed.

    try:
        builder = tfds.builder(name)
    except (tfds.core.registered.DatasetNotFoundError, ValueError):
        raise BadInput(
            f"TensorFlow Datasets has no '{name}'{closest(name, tfds.list_builders())}"
        ) from None
    known = builder.info.features
    if not set(features) <= set(known):
        raise BadInput(
            f"tfds:{name} has no {' and '.join(f'`{each}`' for each in features)}; "
            f"choose a data set made for {purpose}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise BadInput(
            f"tfds:{name} could not be downloaded: {str(error).splitlines()[0]}; check "
            "the network, or prepare the data set elsewhere"
        ) from error
    splits = {
        split: list(
            builder.as_dataset(split=source, decoders=decoders).as_numpy_iterator()
        )
        for split, names in SPLIT_NAMES.items()
        for source in set(names) & set(builder.info.splits)
    }
    if "train" not in splits:
        raise BadInput(f"tfds:{name} has no split named `train`; choose another one")
    return splits, known
