"""Splits of examples, held-out examples, and TensorFlow Datasets.

Each application has a dataclass `Examples`. Its lists and arrays have one entry per
example; every other field, such as a tuple of class names, belongs to all of them. It
has `names`, strings that identify the examples, and, if they have classes, `labels`,
int `(examples,)`, and `class_names`. Examples that belong together, such as those of a
speaker, have the same name in `groups`.
"""

import dataclasses
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from apps.common.errors import BadInput, closest

# Names that people give to the files or folders of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test",),
}
TEST_FRACTION = 0.25
MIN_GROUPS = 4  # From so many on, whole groups are held out for testing.
# How many classes, and how many skipped examples of each kind, are named on the screen.
MAX_CLASSES_SHOWN = 10
MAX_SKIPPED_SHOWN = 3

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
    `config.validation_fraction` of the rest for validation. A class with a single
    example left has none for validation; if that holds for all classes, the training
    examples are also those of validation. For testing, whole groups are drawn if there
    are at least four.

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
    if split == "validation" and 0 < _counts(train).max() < 2:
        splits["validation"] = train
        return splits
    ids = example_ids(train)
    if held_out and split in held_out:
        positions = {name: i for i, name in enumerate(ids)}
        taken = [positions[name] for name in held_out[split] if name in positions]
        kept = np.setdiff1d(np.arange(len(ids)), taken)
        if not taken:
            raise BadInput(
                f"{config.data} has none of the examples that the training held out "
                f"for {split}; restore them, or pass --data other data, of another name"
            )
    elif split == "test" and len(set(_groups(train))) >= MIN_GROUPS:
        drawing = GroupShuffleSplit(1, test_size=fraction, random_state=config.seed)
        ((kept, taken),) = drawing.split(train.names, groups=_groups(train))
    else:
        # Every class is tested; without a validation example it can still be trained.
        min_examples = 2 if split == "test" else 1
        kept, taken = draw(train, fraction, config.seed, config.data, min_examples)
    completed = Splits(
        {**splits, "train": take(train, kept), split: take(train, taken)}
    )
    completed.held_out = {**splits.held_out, split: [ids[i] for i in taken]}
    return completed


def draw(
    examples: Any, fraction: float, seed: int, data: str, min_examples: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a fraction of the examples at random, stratified by class.

    At least one example of each class is drawn and at least one is not. A class with
    a single example keeps it.

    Args:
        examples: What to draw from.
        fraction: The fraction to draw.
        seed: Seed of the random choice.
        data: The name of the data set, for messages.
        min_examples: The least number of examples that each class must have. Defaults
            to 1.

    Returns:
        The indices of the other examples, and those of the drawn ones.

    Raises:
        BadInput: There are fewer examples, of a class or at all.
    """
    counts = _counts(examples)
    if counts.min() < min_examples:
        number = counts.min()
        name = _class_names(examples)[counts.argmin()]
        raise BadInput(
            f"{data} has {_number(number, 'usable example')}"
            f"{f' of the class {name}' if name else ''}; add more, so that some can be "
            "held out"
        )
    labels = _labels(examples)
    can_split = counts[labels] > 1
    indices = np.flatnonzero(can_split)
    num_classes = np.count_nonzero(counts > 1)
    num_drawn = max(round(fraction * len(indices)), num_classes)
    kept, taken = train_test_split(
        indices,
        test_size=min(num_drawn, len(indices) - num_classes),
        random_state=seed,
        stratify=labels[indices],
    )
    # Stratification rounds, so that a small class may be on one side only.
    kept, taken = _give_missing_classes(kept, taken, labels)
    taken, kept = _give_missing_classes(taken, kept, labels)
    return np.concatenate([kept, np.flatnonzero(~can_split)]), taken


def _give_missing_classes(source, target, labels):
    """Moves one example of each class that the target lacks from the source."""
    missing = np.setdiff1d(labels[source], labels[target])
    moved = [np.flatnonzero(labels[source] == label)[0] for label in missing]
    moved = np.array(moved, int)
    return np.delete(source, moved), np.append(target, source[moved])


def _class_names(examples):
    """Returns the names of the classes; one empty name if there are no classes."""
    return getattr(examples, "class_names", None) or ("",)


def _labels(examples):
    """Returns the classes of examples, int `(examples,)`; zeros if there are none."""
    return getattr(examples, "labels", np.zeros(len(examples), int))


def _groups(examples):
    """Returns the name of the group of each example; none if there are no groups."""
    return getattr(examples, "groups", ())


def _counts(examples):
    """Returns the number of examples of each class, int `(classes,)`."""
    return np.bincount(_labels(examples), minlength=len(_class_names(examples)))


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
        split: The name of one, or `all` for those of `train`, `validation` and `test`
            that there are.
        data: The name of the data set, for messages.

    Raises:
        BadInput: There is no such split, or it is empty.
    """
    if split == "all":
        return join(_parts(splits))
    if split not in splits:
        raise BadInput(
            f"{data} has no split '{split}'{closest(split, [*splits, 'all'])}"
        )
    if not len(splits[split]):
        raise BadInput(f"{data} has no examples for {split}; choose another split")
    return splits[split]


def pick_other_split(splits: Mapping[str, Any], split: str, data: str) -> Any:
    """Returns the examples of one split of other data than the model was trained on.

    If the data does not have this split, all its examples are returned, and a line says
    so. Nothing needs to be held out of data that the model was not trained on.

    Args:
        splits: The examples by split, none of them drawn.
        split: As for `pick_split`.
        data: The name of the data set, for messages.

    Raises:
        BadInput: There is no split of this name anywhere, or it is empty.
    """
    if split not in SPLIT_NAMES or split in splits:
        return pick_split(splits, split, data)
    examples = pick_split(splits, "all", data)
    number = len(examples)
    print(f"{data} has no split '{split}'; all {number} examples are scored")
    return examples


def print_summary(data: str, splits: Mapping[str, Any], unit: str) -> None:
    """Prints how many examples were read, for each split and each class.

    Args:
        data: The name of the data set.
        splits: The examples by split, as `complete_splits` returns them.
        unit: What an example is called: `image`, `text` or `sentence`.
    """
    class_names = _class_names(splits["train"])
    has_classes = len(class_names) > 1
    of_classes = f" in {len(class_names)} classes" if has_classes else ""
    print(f"{data}: {_number(sum(map(len, _parts(splits))), unit)}{of_classes}")
    for split, examples in splits.items():
        line = f"  {split}: {len(examples)}"
        if has_classes and len(examples):
            line += f" ({list_counts(class_names, _counts(examples))})"
        print(line)
    if splits["validation"] is splits["train"]:
        print("  too few examples for validation; those of training choose the model")


def list_counts(class_names: Sequence[str], counts: np.ndarray) -> str:
    """Returns the number of examples of each class, such as `cat 5, dog 2`.

    Args:
        class_names: The names of the classes.
        counts: Number of examples of each class, int `(classes,)`.
    """
    order = np.argsort(-counts, kind="stable")
    found = [f"{class_names[i]} {counts[i]}" for i in order if counts[i]]
    missing = [class_names[i] for i in order if not counts[i]]
    none = f"; none of {_list(missing, MAX_CLASSES_SHOWN)}" if missing else ""
    return _list(found, MAX_CLASSES_SHOWN) + none


def print_skipped(
    skipped: Iterable[tuple[str, str]], unit: str = "file", action: str = "skipped"
) -> None:
    """Prints what was skipped, to standard error: a line for each reason.

    Args:
        skipped: A name and a reason for each skipped example, such as `("a.heic", "is a
            HEIC image; convert it to JPEG")` or `("line 7 of x.csv", "has no text")`.
        unit: What an example is called. Defaults to `file`; rows of tables are `row`.
        action: What was done with the examples. Defaults to `skipped`.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped:
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        print(
            f"{action} {_number(len(names), unit)}: {reason}: "
            f"{_list(names, MAX_SKIPPED_SHOWN)}",
            file=sys.stderr,
        )


def _parts(splits):
    """Returns the standard splits that there are, or all others, each once."""
    names = [name for name in SPLIT_NAMES if name in splits] or splits
    return list({id(splits[name]): splits[name] for name in names}.values())


def _number(number, unit):
    """Returns a number with its unit, such as `1 image`, `2 images` or `2 boxes`."""
    plural = "es" if unit.endswith("x") else "s"
    return f"{number} {unit}{'' if number == 1 else plural}"


def _list(names, max_names):
    """Returns the first names, separated by commas, and the number of the others."""
    others = len(names) - max_names
    return ", ".join(names[:max_names]) + (f" and {others} more" if others > 0 else "")


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


def is_missing(data: str) -> bool:
    """Returns whether a value of `--data` is a path in a folder where nothing is."""
    path = Path(data)
    is_name = data.startswith("tfds:") or path.name == data
    return not is_name and not path.exists()


def evenly(examples: Any, num_examples: int) -> Any:
    """Returns a few of the examples, evenly spaced."""
    return take(examples, even_indices(len(examples), num_examples))


def even_indices(number: int, num_chosen: int) -> np.ndarray:
    """Returns the indices of at most `num_chosen` of so many things, evenly spaced."""
    return np.linspace(0, number - 1, min(num_chosen, number)).astype(int)


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
