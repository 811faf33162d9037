"""Texts and their classes, from wherever they are to batches."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.text import PADDING, UNKNOWN, print_skipped, read_table, split_files

SENTENCES = 3000
# Texts of one batch have lengths between two of these, so that little is padding.
BUCKETS = (8, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512, 1024)


@dataclass(frozen=True)
class Examples:
    """Texts and their labels.

    Attributes:
        texts: Strings.
        labels: Class numbers, int `(examples,)`.
    """

    texts: list[str]
    labels: np.ndarray

    def __len__(self):
        """Returns the number of texts."""
        return len(self.texts)

    def __getitem__(self, indices):
        """Returns the examples at these indices."""
        return Examples([self.texts[i] for i in indices], self.labels[indices])


def load_examples(config):
    """Reads the texts of a data set and splits them.

    What the data has no split for is held out from the training texts, as
    `datasets.complete_splits` describes.

    Args:
        config: A `Config`.

    Returns:
        The `Examples` of `train`, `validation` and `test`, and the class names.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "sentences":
        tables = {"train": make_sentences()}
    elif config.data.startswith("tfds:"):
        tables = _tensorflow_dataset(config)
    else:
        tables = _files(config)
    class_names = sorted({label for _, label in tables["train"]})
    if len(class_names) < 2:
        raise BadInput(
            f"{config.data} has only the class {class_names[0]}; a classifier needs at "
            "least two"
        )
    splits = {
        split: _number(rows, class_names, f"{config.data}, {split}")
        for split, rows in tables.items()
    }
    return datasets.complete_splits(
        splits, config.validation_fraction, config.seed, config.data, class_names
    ), class_names


def load_split(config, split, foreign=False):
    """Returns the examples of one split, and the class names.

    Args:
        config: Says which data, and which of its columns.
        split: `train`, `validation`, `test`, or `all` of them.
        foreign: Whether it is other data than the model was trained on. Of that, a
            single file is taken whole.

    Raises:
        BadInput: The data cannot be used.
    """
    if foreign and Path(config.data).is_file():
        rows = read_rows(Path(config.data), config)
        class_names = sorted({label for _, label in rows})
        return _number(rows, class_names, config.data), class_names
    splits, class_names = load_examples(config)
    if split == "all":
        parts = splits.values()
        return Examples(
            list(itertools.chain(*(part.texts for part in parts))),
            np.concatenate([part.labels for part in parts]),
        ), class_names
    return splits[split], class_names


def make_batches(examples, config, tokenizer, class_weights, training=False):
    """Returns batches of texts of similar lengths.

    Args:
        examples: What to load.
        config: Gives the batch size, the longest text and the share of hidden pieces.
        tokenizer: A `Tokenizer`.
        class_weights: How much an example of each class counts, `(classes,)`.
        training: Whether to shuffle, to cut long texts and to hide pieces.

    Returns:
        A `tf.data.Dataset` of `(batch, steps)` numbers of pieces, padded at the end,
        `(batch, classes)` one-hot labels and `(batch,)` weights.
    """
    tokens = tokenizer(tf.constant(examples.texts))
    if training:
        tokens = tokens[:, : config.max_tokens]
    weights = tf.constant(class_weights, tf.float32)
    buckets = np.digitize(tokens.row_lengths(), BUCKETS)
    steps = int((-(-np.bincount(buckets) // config.batch_size)).sum())

    def finish(tokens, labels):
        if training:
            hidden = tf.random.uniform(tf.shape(tokens)) < config.token_dropout
            tokens = tf.where(hidden & (tokens != PADDING), UNKNOWN, tokens)
        one_hot = tf.one_hot(labels, len(class_weights))
        return tokens, one_hot, tf.gather(weights, labels)

    labels = tf.constant(examples.labels, tf.int32)
    dataset = tf.data.Dataset.from_tensor_slices((tokens, labels))
    if training:
        dataset = dataset.shuffle(len(examples), seed=config.seed)
    # Buckets refuse ragged tensors, though of one text alone.
    dataset = dataset.map(lambda tokens, label: (tf.identity(tokens), label))
    dataset = dataset.bucket_by_sequence_length(
        lambda tokens, label: tf.shape(tokens)[0],
        BUCKETS,
        [config.batch_size] * (len(BUCKETS) + 1),
        padding_values=(PADDING, 0),
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.map(finish).prefetch(4)


def read_rows(path: Path, config):
    """Reads the texts and labels of a file.

    Args:
        path: A table, as `text.read_table` takes it.
        config: Names the columns of the texts and of the labels.

    Returns:
        Pairs of text and label. Those without text are left out, and counted.

    Raises:
        BadInput: The table cannot be used, or has a text without label.
    """
    columns = {
        "text_column": config.text_column,
        "label_column": config.label_column,
    }
    rows, empty = [], []
    for line, (text, label) in read_table(path, columns):
        label = " ".join(label.split())
        if not text.strip():
            empty.append(line)
        elif not label:
            raise BadInput(
                f"{path}, line {line}: the text has no {config.label_column}; add it, "
                "or delete the line"
            )
        else:
            rows.append((text, label))
    print_skipped(path, empty, "without text")
    if not rows:
        raise BadInput(f"{path} has no rows with a text; add some")
    return rows


def _files(config):
    """Returns the tables of a folder, by split, or the only one.

    Raises:
        BadInput: One cannot be used, there are two for a split or none to learn from.
    """
    root = Path(config.data)
    if not root.is_dir():
        return {"train": read_rows(root, config)}
    files = split_files(root, others=False)
    if "train" not in files:
        raise BadInput(
            f"{root} has no file train.tsv or train.csv; add one, or pass --data the "
            "table itself"
        )
    return {split: read_rows(path, config) for split, path in files.items()}


def _tensorflow_dataset(config):
    """Returns the texts of a data set of TensorFlow Datasets, by split.

    Raises:
        BadInput: The data set cannot be used.
    """
    import tensorflow_datasets as tfds  # Slow to import, and seldom needed.

    text, label = config.text_column, config.label_column
    sources, features = datasets.read_tensorflow_dataset(
        config.data.removeprefix("tfds:"), (text, label), "text classification"
    )
    if not isinstance(features[text], tfds.features.Text) or not isinstance(
        features[label], tfds.features.ClassLabel
    ):
        raise BadInput(
            f"{config.data}: `{text}` is no text, or `{label}` no class; name others "
            "with --text-column and --label-column"
        )
    tables = {
        split: [
            (record[text].decode(), features[label].int2str(record[label]))
            for record in records
            # Some test splits hide their labels as -1.
            if record[text].strip() and record[label] >= 0
        ]
        for split, records in sources.items()
    }
    return {split: rows for split, rows in tables.items() if rows}


def _number(rows, class_names, source):
    """Turns the names of classes into numbers.

    Raises:
        BadInput: A label is none of them.
    """
    for text, label in rows:
        if label not in class_names:
            raise BadInput(
                f"{source}: the label '{label}' of \"{text[:40]}\" is none of "
                f"{', '.join(class_names)}, which the training texts have; correct it, "
                "or add texts of that class to learn from"
            )
    labels = [class_names.index(label) for _, label in rows]
    return Examples([text for text, _ in rows], np.array(labels))


def make_sentences(number=SENTENCES, seed=0):
    """Writes sentences by a grammar, in which the order of the words matters.

    A negation turns the word after it, and of two clauses the one decides that `but`
    introduces, or that `although` does not. Counting words tells neither.

    Args:
        number: Sentences; no two are equal.
        seed: Decides which ones.

    Returns:
        Pairs of sentence and `negative`, `neutral` or `positive`, equally many each.
    """
    random = np.random.default_rng(seed)
    sentences = {}
    while len(sentences) < number:
        polarity = ("negative", "neutral", "positive")[len(sentences) % 3]
        sentences[write_sentence(polarity, random)] = polarity
    return list(sentences.items())


def write_sentence(polarity, random):
    """Writes one sentence of the wanted polarity."""
    said = write_clause(polarity, random)
    other = random.choice([each for each in ADJECTIVES if each != polarity])
    conceded = write_clause(other, random)
    form = random.choice(
        [
            "{said}",
            "{conceded} but {said}",
            "although {conceded} , {said}",
            "{said} although {conceded}",
            "they say that {conceded} , but i found that {said}",
            "{said} , even though {conceded}",
        ]
    )
    return form.format(said=said, conceded=conceded)


def write_clause(polarity, random):
    """Writes a clause of the wanted polarity about one thing."""
    thing = f"the {random.choice(THINGS)}"
    degree = random.choice(["", "", "very ", "really ", "quite "])
    if polarity == "neutral":
        good, bad = (
            random.choice(ADJECTIVES[each]) for each in ("positive", "negative")
        )
        plain = random.choice(ADJECTIVES["neutral"])
        forms = [
            f"{thing} was {degree}{plain}",
            f"{thing} was neither {good} nor {bad}",
            f"{thing} was neither {bad} nor {good}",
        ]
        return random.choice(forms)
    opposite = {"negative": "positive", "positive": "negative"}[polarity]
    meant, turned = (random.choice(ADJECTIVES[each]) for each in (polarity, opposite))
    forms = [
        f"{thing} was {degree}{meant}",
        f"{thing} was so {meant}",
        f"{thing} was not {degree}{turned}",
        f"{thing} was never {turned}",
        f"{thing} was anything but {turned}",
        f"nobody would call {thing} {turned}",
    ]
    return random.choice(forms)


THINGS = (
    *("acting", "bar", "battery", "bed", "breakfast", "camera", "coffee", "cook"),
    *("ending", "film", "food", "garden", "hotel", "music", "plot", "price"),
    *("room", "screen", "service", "soup", "sound", "staff", "story", "view"),
)
ADJECTIVES = {
    "negative": (
        *("awful", "bad", "boring", "dreadful", "poor", "sad", "terrible", "ugly"),
    ),
    "neutral": (
        *("average", "common", "ordinary", "plain", "regular", "standard", "usual"),
    ),
    "positive": (
        *("brilliant", "charming", "fine", "good", "great", "lovely", "nice", "superb"),
    ),
}
