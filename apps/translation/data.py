"""Pairs of a sentence and its translation: from files to batches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.text import (
    PADDING,
    TABLE_ENDINGS,
    UNKNOWN,
    print_unused,
    read_lines,
    read_table,
    shorten,
    split_files,
)
from apps.common.tokenizer import END, START
from apps.translation import embedded

# Longer sentences are skipped; the exported model refuses them.
MAX_TEXT_BYTES = 5_000
MAX_WORD_LETTERS = 100
# Limits of the length buckets, in tokens. A batch holds translations of one bucket
# only, so it has little padding.
BUCKET_BOUNDARIES = (*range(6, 40, 2), *range(40, 80, 5), *range(80, 400, 20))


@dataclass(frozen=True)
class Examples:
    """Sentences and their translations.

    Attributes:
        sources: The sentences.
        targets: Their translations.
    """

    sources: list[str]
    targets: list[str]

    @property
    def names(self):
        """The sentences with their translations identify the examples."""
        return list(map("\t".join, zip(self.sources, self.targets, strict=True)))

    def __len__(self):
        """Returns the number of pairs."""
        return len(self.sources)


def load_examples(config, held_out=None):
    """Reads the pairs of a data set and completes its splits.

    Args:
        config: A `Config`.
        held_out: As for `datasets.complete_splits`.

    Returns:
        `datasets.Splits` of `Examples`. Other files of a folder are splits of their own
        names.

    Raises:
        BadInput: The data cannot be used.
    """
    splits = read_splits(config)
    if "train" not in splits:
        raise BadInput(
            f"{config.data} has no train.tsv, train.csv or "
            f"train.{config.source_column}; add one, or name the endings with "
            "--source-column and --target-column"
        )
    return datasets.complete_splits(splits, config, held_out)


def read_splits(config):
    """Reads the pairs of a data set; no split is drawn.

    Args:
        config: A `Config`.

    Returns:
        `Examples` by split.

    Raises:
        BadInput: The data cannot be used.
    """
    path = Path(config.data)
    is_named = config.data == "numbers" or config.data.startswith("tfds:")
    is_table = path.name.lower().endswith(TABLE_ENDINGS)
    if config.target_data and (is_named or is_table or path.is_dir()):
        raise BadInput(
            f"--target-data {config.target_data} belongs to a text file, but --data "
            f"{config.data} is none; leave it out, or name the text file"
        )
    if config.data == "numbers":
        columns = config.source_column, config.target_column
        pairs = {"train": embedded.numbers(*columns)}
    elif config.data.startswith("tfds:"):
        pairs = _tensorflow_dataset(config)
    elif path.is_dir():
        pairs = _folder(config)
    else:
        pairs = {"train": read_pairs(config)}
    return {
        split: Examples(*map(list, zip(*each, strict=True)))
        for split, each in pairs.items()
    }


def load_split(config, split, is_other_data=False, held_out=None):
    """Returns the `Examples` of one split.

    Args:
        config: A `Config`.
        split: As for `datasets.pick_split`, or another file of a folder, such as
            `test_2017_flickr`.
        is_other_data: Whether it is other data than the model was trained on. Nothing
            is held out of such data; see `datasets.pick_other_split`.
        held_out: As for `datasets.complete_splits`.

    Raises:
        BadInput: The data cannot be used.
    """
    if is_other_data:
        return datasets.pick_other_split(read_splits(config), split, config.data)
    return datasets.pick_split(load_examples(config, held_out), split, config.data)


def make_batches(examples, config, tokenizers, training=False):
    """Returns batches of pairs whose translations have similar lengths.

    Args:
        examples: The `Examples`.
        config: Gives the batch size and the seed; for training also `max_tokens`,
            `subword_sampling_alpha` and `token_dropout`.
        tokenizers: The `Tokenizer`s of the source and of the target language.
        training: Whether to shuffle, to leave out long pairs, to sample the
            segmentation and to drop tokens.

    Returns:
        A `tf.data.Dataset` of three parts. The inputs of the model: source token ids,
        `(batch, source_steps)`, and the target token ids before each step,
        `(batch, steps)`, which begin with `START`. The labels: target token ids,
        `(batch, steps)`. The sample weights, `(batch, steps)`: 0 for padding, else 1.

    Raises:
        BadInput: All pairs are too long for training.
    """
    source_tokenizer, target_tokenizer = tokenizers
    lengths = target_tokenizer(tf.constant(examples.targets)).row_lengths().numpy()
    if training:
        source_ids = source_tokenizer(tf.constant(examples.sources))
        longest = np.maximum(lengths, source_ids.row_lengths())
        kept = np.flatnonzero(longest <= config.max_tokens)
        reason = f"longer than {config.max_tokens} tokens (--max-tokens)"
        long = np.flatnonzero(longest > config.max_tokens)
        datasets.print_skipped(
            ((f'"{shorten(examples.sources[i])}"', reason) for i in long),
            "training pair",
        )
        if not len(kept):
            raise BadInput(
                f"every pair of {config.data} is longer than --max-tokens "
                f"{config.max_tokens}; raise it, or add shorter sentences"
            )
        examples, lengths = datasets.take(examples, kept), lengths[kept]
    alpha = config.subword_sampling_alpha if training else 0
    tokenize_source, tokenize_target = (each.sampler(alpha) for each in tokenizers)

    def drop_tokens(token_ids):
        is_dropped = tf.random.uniform(tf.shape(token_ids)) < config.token_dropout
        return tf.where(is_dropped & (token_ids > END), UNKNOWN, token_ids)

    def prepare(sources, targets, _):
        source_ids = tokenize_source(sources).to_tensor(PADDING)
        labels = tokenize_target(targets).to_tensor(PADDING)
        inputs = tf.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        if training:
            source_ids, inputs = drop_tokens(source_ids), drop_tokens(inputs)
        return (source_ids, inputs), labels, tf.cast(labels != PADDING, tf.float32)

    dataset = tf.data.Dataset.from_tensor_slices(
        (examples.sources, examples.targets, lengths)
    )
    if training:
        dataset = dataset.shuffle(len(examples), seed=config.seed)
    dataset = dataset.bucket_by_sequence_length(
        lambda source, target, length: tf.cast(length, tf.int32),
        BUCKET_BOUNDARIES,
        [config.batch_size] * (len(BUCKET_BOUNDARIES) + 1),
    )
    buckets = np.digitize(lengths, BUCKET_BOUNDARIES)
    num_batches = int((-(-np.bincount(buckets) // config.batch_size)).sum())
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset.map(prepare, num_parallel_calls=2).prefetch(4)


def read_pairs(config):
    """Reads the pairs of a table, or of two text files. Incomplete pairs are skipped.

    Args:
        config: Gives the file or both files, and the names of the two columns.

    Returns:
        Pairs of a sentence and its translation.

    Raises:
        BadInput: A file cannot be used, or the two files differ in length.
    """
    path = Path(config.data)
    if config.target_data:
        return _read_lines(path, Path(config.target_data))
    if path.is_file() and not path.name.lower().endswith(TABLE_ENDINGS):
        raise BadInput(
            f"{path} is not a table, whose name ends in {', '.join(TABLE_ENDINGS)}; if "
            "it has one sentence per line, add --target-data with the translations"
        )
    return _read_table(path, config)


def _read_table(path, config):
    """Returns the pairs of a table."""
    columns = {
        "source_column": config.source_column,
        "target_column": config.target_column,
    }
    return _complete_pairs(path, read_table(path, columns))


def _read_lines(source, target):
    """Returns the pairs of two files, line by line.

    Raises:
        BadInput: A file cannot be used, or they differ in length.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise BadInput(
            f"{source} has {len(sources)} lines and {target} {len(targets)}; line by "
            "line, one file must hold the translation of the other"
        )
    pairs = zip(sources, targets, strict=True)
    return _complete_pairs(source, enumerate(pairs, start=1))


def _complete_pairs(path, rows):
    """Returns the pairs of a sentence and a translation, stripped.

    Pairs without one of them and sentences that are too long are skipped.

    Args:
        path: The file of the pairs, for messages.
        rows: Line numbers and pairs.

    Raises:
        BadInput: There is no such pair.
    """
    pairs, skipped = [], []
    for line, pair in rows:
        source, target = map(str.strip, pair)
        if reason := _why_skipped(source, target):
            skipped.append((f"line {line} of {path}", reason))
        else:
            pairs.append((source, target))
    datasets.print_skipped(skipped, "row")
    if not pairs:
        raise BadInput(f"{path} has no sentence with a translation; add some")
    return pairs


def _why_skipped(source, target):
    """Returns why a stripped pair cannot be used, or None if it can."""
    if not source:
        return "has no sentence"
    if not target:
        return "has no translation"
    if len(source.encode()) > MAX_TEXT_BYTES:
        return f"has more than {MAX_TEXT_BYTES} bytes"
    if max(map(len, source.split())) > MAX_WORD_LETTERS:
        return f"has a word of more than {MAX_WORD_LETTERS} letters"
    return None


def _folder(config):
    """Returns the pairs of each file in a folder, by split.

    Raises:
        BadInput: A file cannot be used, the file of the other language is missing, or
            there is none.
    """
    root = Path(config.data)
    files = split_files(root)
    sources, targets = (
        split_files(root, (f".{column}", f".{column}.gz"))
        for column in (config.source_column, config.target_column)
    )
    if "train" in files or (files and not sources):
        print_unused(root, files.values())
        tables = {path: _read_table(path, config) for path in set(files.values())}
        return {split: tables[path] for split, path in files.items()}
    if not sources:
        raise BadInput(
            f"{root} has no train.tsv, train.csv or train.{config.source_column}; add "
            "one, or name the endings with --source-column and --target-column"
        )
    if unpaired := sorted(set(sources) ^ set(targets)):
        path = (sources | targets)[unpaired[0]]
        raise BadInput(
            f"{path} has no counterpart; add a {path.name.split('.')[0]} of the other "
            f"language, {config.source_column} or {config.target_column}"
        )
    print_unused(root, [*sources.values(), *targets.values()])
    return {split: _read_lines(path, targets[split]) for split, path in sources.items()}


def _tensorflow_dataset(config):
    """Returns the pairs of a data set of TensorFlow Datasets, by split.

    Raises:
        BadInput: The data set cannot be used.
    """
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    columns = config.source_column, config.target_column
    sources, features = datasets.read_tensorflow_dataset(
        config.data.removeprefix("tfds:"), columns, "translation"
    )
    for column in columns:
        if not isinstance(features[column], tfds.features.Text):
            raise BadInput(
                f"{config.data}: `{column}` is not text; name another feature with "
                "--source-column and --target-column"
            )
    pairs = {}
    for split, records in sources.items():
        rows = (
            tuple(record[column].decode() for column in columns) for record in records
        )
        if records:
            name = f"{config.data}, {split}"
            pairs[split] = _complete_pairs(name, enumerate(rows, start=1))
    return pairs
