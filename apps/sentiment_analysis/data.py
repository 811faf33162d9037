"""Texts and classes: from tables and data sets to batches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.text import PADDING, UNKNOWN, print_skipped, read_table, split_files
from apps.sentiment_analysis import embedded

# Limits of the length buckets, in tokens. A batch holds texts of one bucket only, so
# it has little padding.
BUCKET_BOUNDARIES = (8, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512, 1024)


@dataclass(frozen=True)
class Examples:
    """Texts and their labels.

    Attributes:
        texts: The texts.
        labels: The class of each text, int `(examples,)`.
        class_names: The names of the classes.
    """

    texts: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]

    @property
    def names(self):
        """The texts themselves identify the examples."""
        return self.texts

    def __len__(self):
        """Returns the number of texts."""
        return len(self.texts)


def load_examples(config, held_out=None):
    """Reads the texts of a data set and completes its splits.

    Args:
        config: A `Config`.
        held_out: As for `datasets.complete_splits`.

    Returns:
        `datasets.Splits` of `Examples`.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "sentences":
        tables = {"train": embedded.sentences()}
    elif config.data.startswith("tfds:"):
        tables = _tensorflow_dataset(config)
    else:
        tables = _files(config)
    class_names = _class_names(tables["train"])
    if len(class_names) < 2:
        raise BadInput(
            f"{config.data} has only the class {class_names[0]}; a classifier needs at "
            "least two"
        )
    splits = {
        split: _make_examples(rows, class_names, f"{config.data}, {split}")
        for split, rows in tables.items()
    }
    return datasets.complete_splits(splits, config, held_out)


def load_split(config, split, is_other_data=False, held_out=None):
    """Returns the `Examples` of one split.

    Args:
        config: A `Config`.
        split: As for `datasets.pick_split`.
        is_other_data: Whether it is other data than the model was trained on. A single
            file of such data is taken whole.
        held_out: As for `datasets.complete_splits`.

    Raises:
        BadInput: The data cannot be used.
    """
    path = Path(config.data)
    if is_other_data and path.is_file():
        rows = read_rows(path, config)
        return _make_examples(rows, _class_names(rows), config.data)
    return datasets.pick_split(load_examples(config, held_out), split, config.data)


def make_batches(examples, config, tokenizer, class_weights, training=False):
    """Returns batches of texts of similar lengths.

    Args:
        examples: The `Examples`.
        config: Gives the batch size, `max_tokens`, `token_dropout` and the seed.
        tokenizer: A `Tokenizer`.
        class_weights: The weight of an example of each class, `(classes,)`.
        training: Whether to shuffle, to cut long texts and to drop tokens.

    Returns:
        A `tf.data.Dataset` of token ids, `(batch, steps)`, padded at the end; one-hot
        labels, `(batch, classes)`; and sample weights, `(batch,)`.
    """
    token_ids = tokenizer(tf.constant(examples.texts))
    if training:
        token_ids = token_ids[:, : config.max_tokens]
    weights = tf.constant(class_weights, tf.float32)
    buckets = np.digitize(token_ids.row_lengths(), BUCKET_BOUNDARIES)
    num_batches = int((-(-np.bincount(buckets) // config.batch_size)).sum())

    def prepare(token_ids, labels):
        if training:
            is_dropped = tf.random.uniform(tf.shape(token_ids)) < config.token_dropout
            is_dropped &= token_ids != PADDING
            token_ids = tf.where(is_dropped, UNKNOWN, token_ids)
        one_hot = tf.one_hot(labels, len(class_weights))
        return token_ids, one_hot, tf.gather(weights, labels)

    labels = tf.constant(examples.labels, tf.int32)
    dataset = tf.data.Dataset.from_tensor_slices((token_ids, labels))
    if training:
        dataset = dataset.shuffle(len(examples), seed=config.seed)
    # `bucket_by_sequence_length` rejects ragged elements; make them dense.
    dataset = dataset.map(lambda token_ids, label: (tf.identity(token_ids), label))
    dataset = dataset.bucket_by_sequence_length(
        lambda token_ids, label: tf.shape(token_ids)[0],
        BUCKET_BOUNDARIES,
        [config.batch_size] * (len(BUCKET_BOUNDARIES) + 1),
        padding_values=(PADDING, 0),
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset.map(prepare).prefetch(4)


def read_rows(path, config):
    """Reads the texts and class names of a table. Rows without text are skipped.

    Args:
        path: A table, as `text.read_table` takes it.
        config: Gives the names of the two columns.

    Returns:
        Pairs of a text and its class name.

    Raises:
        BadInput: The table cannot be used, or a text has no label.
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
    """Returns the rows of each file in a folder, by split, or those of a single file.

    Raises:
        BadInput: A file cannot be used, there are two for a split, or there is none for
            training.
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
    """Returns the rows of a data set of TensorFlow Datasets, by split.

    Raises:
        BadInput: The data set cannot be used.
    """
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    text, label = config.text_column, config.label_column
    sources, features = datasets.read_tensorflow_dataset(
        config.data.removeprefix("tfds:"), (text, label), "text classification"
    )
    if not isinstance(features[text], tfds.features.Text) or not isinstance(
        features[label], tfds.features.ClassLabel
    ):
        raise BadInput(
            f"{config.data}: `{text}` is not a text, or `{label}` is not a class; name "
            "other features with --text-column and --label-column"
        )
    tables = {}
    for split, records in sources.items():
        rows, skipped = [], []
        for number, record in enumerate(records, start=1):
            # Some test splits hide their labels as -1.
            if record[text].strip() and record[label] >= 0:
                name = features[label].int2str(record[label])
                rows.append((record[text].decode(), name))
            else:
                skipped.append(number)
        print_skipped(f"{config.data}, {split}", skipped, "without text or label")
        if rows:
            tables[split] = rows
    return tables


def _class_names(rows):
    """Returns the names of the classes in these rows, sorted."""
    return tuple(sorted({label for _, label in rows}))


def _make_examples(rows, class_names, source):
    """Returns pairs of a text and its class name as `Examples`.

    Raises:
        BadInput: A class name is unknown.
    """
    for text, label in rows:
        if label not in class_names:
            raise BadInput(
                f"{source}: the label '{label}' of \"{text[:40]}\" is none of "
                f"{', '.join(class_names)}, the classes of the training texts; correct "
                "it, or add training texts of that class"
            )
    labels = [class_names.index(label) for _, label in rows]
    return Examples([text for text, _ in rows], np.array(labels, int), class_names)
