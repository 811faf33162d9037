"""Texts and classes: from tables and data sets to batches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.text import (
    PADDING,
    UNKNOWN,
    print_unused,
    read_table,
    shorten,
    split_files,
)
from apps.sentiment_analysis import embedded

MAX_TEXT_BYTES = 10_000  # Longer texts are skipped; the exported model refuses them.
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
    splits = read_splits(config)
    if "train" not in splits:
        raise BadInput(
            f"{config.data} has no file train.tsv or train.csv; add one, or pass "
            "--data the table itself"
        )
    _check_classes(splits, config.data)
    return datasets.complete_splits(splits, config, held_out)


def read_splits(config):
    """Reads the texts of a data set; no split is drawn.

    Args:
        config: A `Config`.

    Returns:
        `Examples` by split. The names of the classes are those of all splits.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "sentences":
        tables = {"train": embedded.sentences()}
    elif config.data.startswith("tfds:"):
        tables = _tensorflow_dataset(config)
    else:
        tables = _files(config)
    class_names = tuple(
        sorted({label for rows in tables.values() for _, label in rows})
    )
    return {
        split: Examples(
            [text for text, _ in rows],
            np.array([class_names.index(label) for _, label in rows], int),
            class_names,
        )
        for split, rows in tables.items()
    }


def load_split(config, split, is_other_data=False, held_out=None):
    """Returns the `Examples` of one split.

    Args:
        config: A `Config`.
        split: As for `datasets.pick_split`.
        is_other_data: Whether it is other data than the model was trained on. Nothing
            is held out of such data; see `datasets.pick_other_split`.
        held_out: As for `datasets.complete_splits`.

    Raises:
        BadInput: The data cannot be used.
    """
    if is_other_data:
        return datasets.pick_other_split(read_splits(config), split, config.data)
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
        num_long = np.count_nonzero(token_ids.row_lengths() > config.max_tokens)
        if num_long:
            print(
                f"cut: {num_long} of {len(examples)} training texts, to "
                f"{config.max_tokens} tokens (--max-tokens)"
            )
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
    """Reads the texts and class names of a table. Rows without them are skipped.

    Args:
        path: A table, as `text.read_table` takes it.
        config: Gives the names of the two columns.

    Returns:
        Pairs of a text and its class name.

    Raises:
        BadInput: The table cannot be used, or it has no row with both.
    """
    columns = {
        "text_column": config.text_column,
        "label_column": config.label_column,
    }
    rows, skipped = [], []
    for line, (text, label) in read_table(path, columns):
        label = " ".join(label.split())
        if reason := _why_skipped(text, label, config):
            skipped.append((f"line {line} of {path}", reason))
        else:
            rows.append((text, label))
    datasets.print_skipped(skipped, "row")
    if not rows:
        raise BadInput(f"{path} has no rows with a text and a label; add some")
    return rows


def _why_skipped(text, label, config):
    """Returns why an example cannot be used, or None if it can."""
    if not text.strip():
        return f"has no {config.text_column}"
    if not label:
        return f"has no {config.label_column}"
    if len(text.encode()) > MAX_TEXT_BYTES:
        return f"is longer than {MAX_TEXT_BYTES} bytes; shorten it"
    return None


def _files(config):
    """Returns the rows of each file in a folder, by split, or those of a single file.

    Raises:
        BadInput: A file cannot be used, there are two for a split, or there is none.
    """
    root = Path(config.data)
    if not root.is_dir():
        return {"train": read_rows(root, config)}
    files = split_files(root, others=False)
    if not files:
        raise BadInput(
            f"{root} has no file train.tsv or train.csv; add one, or pass --data the "
            "table itself"
        )
    print_unused(root, files.values())
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
            is_labelled = record[label] >= 0
            name = features[label].int2str(record[label]) if is_labelled else ""
            if reason := _why_skipped(record[text].decode(), name, config):
                name = f"example {number} of {config.data}, {split}"
                skipped.append((name, reason))
            else:
                rows.append((record[text].decode(), name))
        datasets.print_skipped(skipped, "example")
        if rows:
            tables[split] = rows
    return tables


def _check_classes(splits, data):
    """Checks that there are training texts of every class, and several classes.

    Raises:
        BadInput: There are not.
    """
    train = splits["train"]
    labels = set(train.labels)
    class_names = [train.class_names[label] for label in sorted(labels)]
    if len(class_names) < 2:
        raise BadInput(
            f"{data} has only the class {class_names[0]}; a classifier needs at least "
            "two"
        )
    for split, examples in splits.items():
        for text, label in zip(examples.texts, examples.labels, strict=True):
            if label not in labels:
                raise BadInput(
                    f"{data}, {split}: the label '{train.class_names[label]}' of "
                    f'"{shorten(text)}" is none of {", ".join(class_names)}, the '
                    "classes of the training texts; correct it, or add training texts "
                    "of that class"
                )
