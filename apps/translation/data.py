"""Sentences and their translations, from wherever they are to batches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from num2words import CONVERTER_CLASSES, num2words

from apps.common import cli, datasets
from apps.common.errors import BadInput
from apps.common.text import (
    PADDING,
    TABLE_ENDINGS,
    UNKNOWN,
    print_skipped,
    read_lines,
    read_table,
    split_files,
)
from apps.translation.tokenizer import END, START

NUMBERS = 6000
LARGEST_NUMBER = 1_000_000
# Translations of one batch have lengths between two of these.
BUCKETS = (*range(6, 40, 2), *range(40, 80, 5), *range(80, 400, 20))


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations.

    Attributes:
        sources: Strings.
        targets: Strings.
    """

    sources: list[str]
    targets: list[str]

    def __len__(self):
        """Returns the number of pairs."""
        return len(self.sources)

    def __getitem__(self, indices):
        """Returns the pairs at these indices."""
        return Pairs(
            [self.sources[i] for i in indices], [self.targets[i] for i in indices]
        )


def load_pairs(config):
    """Reads the pairs of a data set and splits them.

    What the data has no split for is held out from the training pairs, as
    `datasets.complete_splits` describes.

    Args:
        config: A `Config`.

    Returns:
        The `Pairs` of `train`, `validation`, `test`, and of a folder's further files by
        their names.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.target_data and not _is_text_file(config):
        raise BadInput(
            f"--target-data {config.target_data} belongs to a text file, and --data "
            f"{config.data} is none; leave it out, or name the file"
        )
    if config.data == "numbers":
        tables = {"train": make_numbers(config.source_column, config.target_column)}
    elif config.data.startswith("tfds:"):
        tables = _tensorflow_dataset(config)
    elif Path(config.data).is_dir():
        tables = _folder(config)
    else:
        tables = {"train": read_pairs(config)}
    splits = {split: _pairs(rows) for split, rows in tables.items()}
    return datasets.complete_splits(
        splits, config.validation_fraction, config.seed, config.data
    )


def _pairs(rows):
    """Returns rows of a sentence and its translation as `Pairs`."""
    return Pairs(*map(list, zip(*rows, strict=True)))


def _is_text_file(config):
    """Returns whether the data is, or ought to be, a file of lines."""
    path = Path(config.data)
    is_table = path.name.lower().endswith(TABLE_ENDINGS)
    is_named = config.data == "numbers" or config.data.startswith("tfds:")
    return not (is_named or is_table or path.is_dir())


def load_split(config, split, foreign=False):
    """Returns the pairs of one split.

    Args:
        config: Says which data, and which of its columns.
        split: `train`, `validation`, `test`, another file of the folder, such as
            `test_2017_flickr`, or `all`, which joins the first three.
        foreign: Whether it is other data than the model was trained on. Of that, a
            single file is taken whole.

    Raises:
        BadInput: The data cannot be used, or has no such split.
    """
    if foreign and (Path(config.data).is_file() or config.target_data):
        return _pairs(read_pairs(config))
    splits = load_pairs(config)
    if split == "all":
        parts = [splits[name] for name in datasets.SPLIT_NAMES]
        return Pairs(
            [source for part in parts for source in part.sources],
            [target for part in parts for target in part.targets],
        )
    if split not in splits:
        known = [*splits, "all"]
        raise BadInput(
            f"{config.data} has no split '{split}'{cli.closest(split, known)}"
        )
    return splits[split]


def make_batches(pairs, config, source_tokenizer, target_tokenizer, training=False):
    """Returns batches of pairs whose translations are of similar lengths.

    Args:
        pairs: What to load.
        config: Gives the batch size and how training varies the pieces.
        source_tokenizer: The `Tokenizer` of the sentences.
        target_tokenizer: The `Tokenizer` of their translations.
        training: Whether to shuffle, to leave out long pairs, to vary how words are
            split, and to hide pieces.

    Returns:
        A `tf.data.Dataset` of the pieces of sentences, `(batch, source_steps)`, and
        of translations from `START` on, `(batch, steps)`; the pieces to be written,
        `(batch, steps)`; and their weights, likewise, 0 where there is only padding.

    Raises:
        BadInput: All pairs are too long to train on.
    """
    lengths = target_tokenizer(tf.constant(pairs.targets)).row_lengths().numpy()
    if training:
        source_lengths = source_tokenizer(tf.constant(pairs.sources)).row_lengths()
        longest = np.maximum(lengths, source_lengths)
        kept = np.flatnonzero(longest <= config.max_tokens)
        if len(kept) < len(pairs):
            print(
                f"not learned from: {len(pairs) - len(kept)} of {len(pairs)} pairs, of "
                f"more than {config.max_tokens} pieces (--max-tokens)"
            )
        if not len(kept):
            raise BadInput(
                f"every pair of {config.data} has more than --max-tokens "
                f"{config.max_tokens} pieces; raise it, or add shorter sentences"
            )
        pairs, lengths = pairs[kept], lengths[kept]
    exponent = config.subword_sampling if training else 0
    read, write = (
        tokenizer.sampler(exponent)
        for tokenizer in (source_tokenizer, target_tokenizer)
    )

    def hide(tokens):
        hidden = tf.random.uniform(tf.shape(tokens)) < config.token_dropout
        return tf.where(hidden & (tokens > END), UNKNOWN, tokens)

    def finish(sources, targets, _):
        sources = read(sources).to_tensor(PADDING)
        targets = write(targets).to_tensor(PADDING)
        before = tf.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        if training:
            sources, before = hide(sources), hide(before)
        return (sources, before), targets, tf.cast(targets != PADDING, tf.float32)

    dataset = tf.data.Dataset.from_tensor_slices(
        (list(pairs.sources), list(pairs.targets), lengths)
    )
    if training:
        dataset = dataset.shuffle(len(pairs), seed=config.seed)
    dataset = dataset.bucket_by_sequence_length(
        lambda source, target, length: tf.cast(length, tf.int32),
        BUCKETS,
        [config.batch_size] * (len(BUCKETS) + 1),
    )
    in_bucket = np.bincount(np.digitize(lengths, BUCKETS))
    steps = int((-(-in_bucket // config.batch_size)).sum())
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.map(finish, num_parallel_calls=2).prefetch(4)


def read_pairs(config):
    """Reads the pairs of a table, or of two text files.

    Args:
        config: Names the file or both, and the table's columns.

    Returns:
        Pairs of a sentence and its translation. Those that lack either are left out,
        and counted.

    Raises:
        BadInput: A file cannot be used, or the two differ in length.
    """
    path = Path(config.data)
    if config.target_data:
        return _read_lines(path, Path(config.target_data))
    if path.is_file() and not path.name.lower().endswith(TABLE_ENDINGS):
        raise BadInput(
            f"{path} is no table, whose name ends in {', '.join(TABLE_ENDINGS)}; if it "
            "has one sentence in each line, add --target-data with their translations"
        )
    return _read_table(path, config)


def _read_table(path, config):
    """Returns the pairs of a table."""
    columns = {
        "source_column": config.source_column,
        "target_column": config.target_column,
    }
    return _complete(path, read_table(path, columns))


def _read_lines(source, target):
    """Returns the pairs of two files, line by line.

    Raises:
        BadInput: One cannot be used, or they differ in length.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise BadInput(
            f"{source} has {len(sources)} lines and {target} {len(targets)}; each line "
            "of one must be the translation of that line of the other"
        )
    return _complete(source, enumerate(zip(sources, targets, strict=True), start=1))


def _complete(path, rows):
    """Returns the pairs that have both a sentence and a translation, stripped.

    Args:
        path: The file that they are from.
        rows: Line numbers and pairs.

    Raises:
        BadInput: There is none.
    """
    pairs, incomplete = [], []
    for line, (source, target) in rows:
        if source.strip() and target.strip():
            pairs.append((source.strip(), target.strip()))
        else:
            incomplete.append(line)
    print_skipped(path, incomplete, "without a sentence or its translation")
    if not pairs:
        raise BadInput(f"{path} has no sentence with a translation; add some")
    return pairs


def _folder(config):
    """Returns the pairs of a folder by the names of their files, or by their splits.

    Raises:
        BadInput: A file cannot be used, lacks its other half, or there is none to learn
            from.
    """
    root = Path(config.data)
    files = split_files(root)
    if "train" in files:
        tables = {path: _read_table(path, config) for path in set(files.values())}
        return {split: tables[path] for split, path in files.items()}
    sources, targets = (
        split_files(root, (f".{column}", f".{column}.gz"))
        for column in (config.source_column, config.target_column)
    )
    if "train" not in sources:
        raise BadInput(
            f"{root} has no train.tsv, train.csv or train.{config.source_column}; add "
            "one, or name the endings with --source-column and --target-column"
        )
    if alone := sorted(set(sources) ^ set(targets)):
        path = (sources | targets)[alone[0]]
        raise BadInput(
            f"{path} has no counterpart; add a {path.name.split('.')[0]} of the other "
            f"language, {config.source_column} or {config.target_column}"
        )
    return {split: _read_lines(path, targets[split]) for split, path in sources.items()}


def _tensorflow_dataset(config):
    """Returns the pairs of a data set of TensorFlow Datasets, by split.

    Raises:
        BadInput: The data set cannot be used.
    """
    import tensorflow_datasets as tfds  # Slow to import, and seldom needed.

    columns = config.source_column, config.target_column
    sources, features = datasets.read_tensorflow_dataset(
        config.data.removeprefix("tfds:"), columns, "translation"
    )
    for column in columns:
        if not isinstance(features[column], tfds.features.Text):
            raise BadInput(
                f"{config.data}: `{column}` is no text; name another feature with "
                "--source-column and --target-column"
            )
    return {
        split: _complete(
            f"{config.data}, {split}",
            enumerate(
                (
                    tuple(record[column].decode() for column in columns)
                    for record in records
                ),
                start=1,
            ),
        )
        for split, records in sources.items()
        if records
    }


def make_numbers(source, target, number=NUMBERS, seed=0):
    """Writes whole numbers in words.

    Args:
        source: The language to be read, as num2words calls it, for instance `en`.
        target: The language to be written.
        number: How many; no two are equal.
        seed: Decides which ones.

    Returns:
        Pairs of a number's words in both languages.

    Raises:
        BadInput: num2words does not know one of the languages.
    """
    for setting, language in (("source_column", source), ("target_column", target)):
        if language not in CONVERTER_CLASSES:
            raise BadInput(
                f"{cli.flag(setting)} {language} is no language that numbers can be "
                f"written in{cli.closest(language, CONVERTER_CLASSES)}"
            )
    random = np.random.default_rng(seed)
    # Equally many of each number of digits, as far as there are enough.
    chosen = {}
    while len(chosen) < number:
        digits = random.integers(1, len(str(LARGEST_NUMBER)))
        chosen[int(random.integers(10**digits))] = None
    return [(num2words(n, lang=source), num2words(n, lang=target)) for n in chosen]
