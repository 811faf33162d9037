"""The attributes of faces: their values, and groups of numbers."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from apps.common import datasets, runs
from apps.common.errors import BadInput

FILE = "attributes.json"  # In a run and in an edge bundle.
MAX_VALUES = 12  # Columns of more different words are no attributes.
MAX_NUMBERS = 8  # More different numbers become groups.
MISSING = -1


@dataclass(frozen=True)
class Attribute:
    """An attribute, which has one of a few values.

    Attributes:
        name: Its name, such as `age`.
        values: The names of its values, such as `up to 23`, `24 to 45`, `46 and more`.
        bounds: The largest number of each group but the last one; empty for words.
    """

    name: str
    values: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    def encode(self, text):
        """Returns the index of the value that a text means, or `MISSING`."""
        if self.bounds:
            number = _number(text)
            return (
                MISSING if number is None else int(sum(number > np.array(self.bounds)))
            )
        return self.values.index(text) if text in self.values else MISSING


def find_attributes(examples, config):
    """Returns the attributes that the training examples have.

    Columns that cannot be used are reported.

    Args:
        examples: The `Examples` for training.
        config: Gives `columns`, `numeric_groups` and `model`.

    Returns:
        A tuple of `Attribute`.

    Raises:
        BadInput: A column that the settings name cannot be used, or none is left for a
            conditional GAN.
    """
    attributes, reasons = [], {}
    for i, name in enumerate(examples.columns):
        texts = [row[i] for row in examples.attributes if row[i]]
        try:
            attributes.append(_make_attribute(name, texts, config.numeric_groups))
        except BadInput as error:
            reasons[name] = str(error)
    for name, reason in reasons.items():
        if name in config.columns:
            raise BadInput(f"the attribute {name} {reason}; leave it out of --columns")
    if not attributes and config.model == "conditional_gan":
        found = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        raise BadInput(
            f"{config.data} has no attribute with several values"
            f"{f' ({found})' if found else ''}; name a table with --attribute-file, or "
            "pass --model gan"
        )
    datasets.print_skipped(reasons.items(), "attribute")
    return tuple(attributes)


def _make_attribute(name, texts, num_groups):
    """Returns an attribute, given its values in the examples.

    Raises:
        BadInput: It has too few or too many values.
    """
    distinct = sorted(set(texts))
    if not distinct:
        raise BadInput("has no value")
    if len(distinct) == 1:
        raise BadInput(f"has 1 value only, {distinct[0]}")
    numbers = [_number(text) for text in texts]
    if None not in numbers and len(distinct) > MAX_NUMBERS:
        return _group(name, np.array(numbers), num_groups)
    if len(distinct) > MAX_VALUES:
        raise BadInput(f"has {len(distinct)} values, more than {MAX_VALUES}")
    if None not in numbers:
        distinct.sort(key=float)
    return Attribute(name, tuple(distinct))


def _group(name, numbers, num_groups):
    """Returns an attribute that divides numbers into groups of about the same size.

    Raises:
        BadInput: Most numbers are the largest one, so that there is one group only.
    """
    fractions = np.arange(1, num_groups) / num_groups
    bounds = np.quantile(numbers, fractions, method="inverted_cdf")
    bounds = sorted({*bounds.tolist()} - {numbers.max()})
    if not bounds:
        raise BadInput(f"is {numbers.max():.12g} too often to make groups of it")
    groups = np.searchsorted(bounds, numbers)
    names = []
    for i in range(len(bounds) + 1):
        members = numbers[groups == i]
        low, high = f"{members.min():.12g}", f"{members.max():.12g}"
        names.append(f"{low} to {high}" if low != high else low)
    names[0] = f"up to {bounds[0]:.12g}"
    names[-1] = f"{numbers[groups == len(bounds)].min():.12g} and more"
    return Attribute(name, tuple(names), tuple(bounds))


def _number(text):
    """Returns the finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def encode(attributes, examples):
    """Returns the values of the attributes of examples.

    Args:
        attributes: A tuple of `Attribute`.
        examples: `Examples`, whose columns may be others.

    Returns:
        Indices of the values, int `(examples, attributes)`; `MISSING` where an example
        has no value or an unknown one.
    """
    codes = np.full((len(examples), len(attributes)), MISSING)
    for j, attribute in enumerate(attributes):
        if attribute.name in examples.columns:
            i = examples.columns.index(attribute.name)
            codes[:, j] = [attribute.encode(row[i]) for row in examples.attributes]
    return codes


def one_hot(attributes, codes):
    """Returns values as one-hot vectors, one behind the other.

    Args:
        attributes: A tuple of `Attribute`.
        codes: From `encode`.

    Returns:
        float32 `(examples, values of all attributes)`; zeros for missing values.
    """
    parts = [
        codes[:, [j]] == np.arange(len(attribute.values))
        for j, attribute in enumerate(attributes)
    ]
    return np.concatenate(parts or [codes], axis=1).astype("float32")


def labels(attributes):
    """Returns the names of all values with their attributes, such as `hair=red`."""
    return [f"{each.name}={value}" for each in attributes for value in each.values]


def names_of(labels):
    """Returns the names of the attributes that `labels` returned."""
    return list(dict.fromkeys(label.partition("=")[0] for label in labels))


def combine(codes):
    """Returns the combinations of values that occur, and how often.

    Args:
        codes: From `encode`; examples with missing values do not count.

    Returns:
        The combinations, int `(combinations, attributes)`, and their probabilities,
        float `(combinations,)`.
    """
    complete = codes[(codes != MISSING).all(axis=1)]
    combinations, counts = np.unique(complete, axis=0, return_counts=True)
    return combinations, counts / counts.sum()


def save(attributes, combinations, probabilities, folder):
    """Writes attributes, and their combinations from `combine`, into a folder."""
    content = {
        "attributes": [asdict(each) for each in attributes],
        "combinations": combinations.tolist(),
        "probabilities": probabilities.tolist(),
    }
    runs.write_json(folder / FILE, content)


def load(folder):
    """Returns what `save` wrote: attributes, combinations and their probabilities."""
    content = json.loads((folder / FILE).read_text("utf-8"))
    attributes = tuple(
        Attribute(each["name"], tuple(each["values"]), tuple(each["bounds"]))
        for each in content["attributes"]
    )
    probabilities = np.array(content["probabilities"])
    combinations = np.array(content["combinations"], int)
    shape = len(probabilities), len(attributes)
    return attributes, combinations.reshape(shape), probabilities
