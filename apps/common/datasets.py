"""Splits of examples, held-out examples, and TensorFlow Datasets.

Each application has a dataclass `Examples`. Its lists and arrays have one entry per
example; every other field, such as a tuple of class names, belongs to all of them. It
has `names`, strings that identify the examples, and, if they have classes, `labels`,
int `(examples,)`, and `class_names`.
"""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from apps.common.errors import BadInput, closest

# Names that people give to the files or folders of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
TEST_FRACTION = 0.25

HeldOut = Mapping[str, Sequence[str]]  # The ids of held-out examples, by split.


class Splits(dict):
    """The examples of `train`, `validation`, `test` and other splits, by name.

    Attributes:
        held_out: The ids of the examples in each split that was drawn from the training
            examples. A run records them, so that an evaluation finds the same split
            when the data has grown since.
    """

    def __init__(self, splits: Mapping[str, Any]):
        super().__init__(splits)
        self.held_out: dict[str, Sequence[str]] = {}


def take(examples: Any, indices: Iterable[int]) -> Any:
    """Returns the examples at these indices."""
    indices = np.asarray(list(indices), int)
    return dataclasses.replace(
        examples,
        **{
            name: column[indices]
            if isinstance(column, np.ndarray)
            else [column[i] for i in indices]
            for name, column in _columns(examples).items()
        },
    )


def join(parts: Iterable[Any]) -> Any:
    """Returns the examples of several parts as one."""
    parts = list(parts)
    return dataclasses.replace(
        parts[0],
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            if isinstance(column, np.ndarray)
            else list(itertools.chain(*(getattr(part, name) for part in parts)))
            for name, column in _columns(parts[0]).items()
        },
    )


def _columns(examples):
    """Returns the fields with one entry per example."""
    fields = {
        field.name: getattr(examples, field.name)
        for field in dataclasses.fields(examples)
    }
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, (list, np.ndarray))
    }


def complete_splits(
    splits: Mapping[str, Any], config: Any, held_out: HeldOut | None = None
) -> Splits:
    """Draws the splits that the data does not have from the training examples.

    Splits that the data has are kept: `test` is for testing, `validation` chooses the
    best epoch. If there is only a `validation` split, it is used for testing. Missing
    splits are drawn at random, stratified by class: a quarter for testing, then
    `config.validation_fraction` of the rest for validation.

    Args:
        splits: The examples of `train` and of other splits that the data has.
        config: Gives `data`, `validation_fraction` and `seed`.
        held_out: Ids that a training recorded. These examples are held out again,
            and no new ones are drawn.

    Raises:
        BadInput: There are too few examples, or none of the recorded ones.
    """
    return hold_out_validation(
        hold_out_test(splits, config, held_out), config, held_out
    )


def hold_out_test(
    splits: Mapping[str, Any], config: Any, held_out: HeldOut | None = None
) -> Splits:
    """Returns splits with a `test` split; the arguments are `complete_splits`'."""
    splits = Splits(splits)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    return _hold_out("test", splits, TEST_FRACTION, config, held_out)


def hold_out_validation(
    splits: Splits, config: Any, held_out: HeldOut | None = None
) -> Splits:
    """Returns splits with a `validation` split; call `hold_out_test` first."""
    fraction = config.validation_fraction
    return _hold_out("validation", splits, fraction, config, held_out)


def _hold_out(split, splits, fraction, config, held_out):
    """Returns the splits with this one, drawn from `train` if it is missing."""
    if split in splits:
        return splits
    train = splits["train"]
    ids = example_ids(train)
    if held_out and split in held_out:
        positions = {name: i for i, name in enumerate(ids)}
        taken = [positions[name] for name in held_out[split] if name in positions]
        kept = np.setdiff1d(np.arange(len(ids)), taken)
        if not taken:
            raise BadInput(
                f"{config.data} has none of the examples that the training held out "
                f"for {split}; restore them, or pass --data other data"
            )
    else:
        kept, taken = draw(train, fraction, config.seed, config.data)
    completed = Splits(
        {**splits, "train": take(train, kept), split: take(train, taken)}
    )
    completed.held_out = {**splits.held_out, split: [ids[i] for i in taken]}
    return completed


def draw(
    examples: Any, fraction: float, seed: int, data: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a fraction of the examples at random, stratified by class.

    Args:
        examples: What to draw from.
        fraction: The fraction to draw.
        seed: Seed of the random choice.
        data: The name of the data set, for messages.

    Returns:
        The indices of the other examples, and those of the drawn ones.

    Raises:
        BadInput: There are fewer than two examples, or fewer than two of a class.
    """
    class_names = getattr(examples, "class_names", None) or ("",)
    labels = getattr(examples, "labels", np.zeros(len(examples), int))
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < 2:
        name = class_names[counts.argmin()]
        of_class = f" of the class {name}" if name else ""
        raise BadInput(
            f"{data} has {counts.min()} usable example{of_class}; add more, so that "
            "some can be held out"
        )
    num_drawn = max(round(fraction * len(examples)), len(class_names))
    return tuple(
        train_test_split(
            np.arange(len(examples)),
            test_size=min(num_drawn, len(examples) - len(class_names)),
            random_state=seed,
            stratify=labels,
        )
    )


def example_ids(examples: Any) -> list[str]:
    """Returns a short id for each example: a digest of its name.

    Examples of the same name are numbered in their order.
    """
    seen: Counter[str] = Counter()
    ids = []
    for name in examples.names:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:12]
        ids.append(f"{digest}-{seen[digest]}" if seen[digest] else digest)
        seen[digest] += 1
    return ids


def pick_split(splits: Mapping[str, Any], split: str, data: str) -> Any:
    """Returns the examples of one split.

    Args:
        splits: The examples by split.
        split: The name of one, or `all` for `train`, `validation` and `test` together.
        data: The name of the data set, for messages.

    Raises:
        BadInput: There is no such split, or it is empty.
    """
    if split == "all":
        return join(splits[name] for name in SPLIT_NAMES)
    if split not in splits:
        raise BadInput(
            f"{data} has no split '{split}'{closest(split, [*splits, 'all'])}"
        )
    if not len(splits[split]):
        raise BadInput(f"{data} has no examples for {split}; choose another split")
    return splits[split]


def sizes(splits: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of examples of each split."""
    return {split: len(examples) for split, examples in splits.items()}


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the inverse frequency of each class, scaled, `(num_classes,)`."""
    counts = np.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * np.maximum(counts, 1))


def is_same(data: str, other: str) -> bool:
    """Returns whether two values of `--data` name the same data set."""
    return Path(data).resolve() == Path(other).resolve()


def evenly(examples: Any, num_examples: int) -> Any:
    """Returns a few of the examples, evenly spaced."""
    num_examples = min(num_examples, len(examples))
    return take(examples, np.linspace(0, len(examples) - 1, num_examples).astype(int))


def read_tensorflow_dataset(
    name: str,
    features: Sequence[str],
    purpose: str,
    decoders: Mapping[str, Any] | None = None,
) -> tuple[dict[str, list[dict]], Any]:
    """Reads a data set of TensorFlow Datasets.

    Args:
        name: The name after `tfds:`.
        features: The features that it must have.
        purpose: The task that needs these features, for the message.
        decoders: As for `tfds.builder(…).as_dataset`.

    Returns:
        The records of `train`, `validation` and `test`, dictionaries of NumPy values,
        and the data set's description of its features.

    Raises:
        BadInput: There is no such data set, it has other features or no training split,
            or it cannot be downloaded.
    """
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

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
            f"choose a data set for {purpose}"
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
