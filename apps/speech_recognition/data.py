"""Recordings and their texts: from tables and folders to batches."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from apps.common import audio, datasets
from apps.common.annotations import name_below
from apps.common.errors import BadInput, closest
from apps.common.images import list_files
from apps.common.text import print_unused, read_lines, read_table, split_files
from apps.speech_recognition import embedded
from apps.speech_recognition.config import CONFIGS, MAX_SECONDS

# Limits of the length buckets, in seconds. A batch holds recordings of one bucket only,
# so it has little padding.
BUCKET_BOUNDARIES = (0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 60)
# The split of each name that a folder or a row may have.
SPLITS = {
    name: split for split, names in datasets.SPLIT_NAMES.items() for name in names
}
AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff")


@dataclass(frozen=True)
class Examples:
    """Recordings and their texts.

    Attributes:
        names: The names of the recordings.
        waveforms: Each float32 `(samples,)`, from -1 to 1, at the sampling rate of the
            settings.
        texts: What is said.
        speakers: Who says it, an empty name if that is not known.
    """

    names: list[str]
    waveforms: list[np.ndarray]
    texts: list[str]
    speakers: list[str]

    def __len__(self):
        """Returns the number of recordings."""
        return len(self.names)

    @property
    def groups(self):
        """The speakers: a test is about new ones."""
        return self.speakers


@dataclass(frozen=True)
class Row:
    """A recording that was not read yet.

    Attributes:
        root: The folder of the data set.
        path: The audio file.
        text: What is said.
        speaker: Who says it.
    """

    root: Path
    path: Path
    text: str
    speaker: str = ""


def load_examples(config, held_out=None):
    """Reads the recordings of a data set and completes its splits.

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
            f"{config.data} has no recordings for training, only for "
            f"{', '.join(splits)}; add some"
        )
    return datasets.complete_splits(splits, config, held_out)


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
        config = _other_data(config)
        return datasets.pick_other_split(read_splits(config), split, config.data)
    return datasets.pick_split(load_examples(config, held_out), split, config.data)


def _other_data(config):
    """Returns the settings for other data than a model was trained on.

    The columns are those of the preset for the data, if there is one. Otherwise those
    of the training; speakers and splits need not be there.
    """
    config = replace(config, test_speaker=None, leave_one_speaker_out=False)
    for preset in (make() for make in CONFIGS.values()):
        if datasets.is_same(preset.data, config.data):
            names = ("audio_column", "text_column", "speaker_column", "split_column")
            return replace(config, **{name: getattr(preset, name) for name in names})
    path = Path(config.data)
    for name in ("speaker_column", "split_column"):
        column = getattr(config, name)
        try:
            if column and path.is_file():
                read_table(path, {name: column})
        except BadInput:
            print(f"{path} has no column '{column}', which is not needed")
            config = replace(config, **{name: None})
    return config


def read_splits(config):
    """Returns the `Examples` of each split that the data has.

    Recordings that cannot be used are reported and skipped.

    Args:
        config: A `Config`.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.test_speaker is not None and not _has_rows(config):
        raise BadInput(
            f"--test-speaker {config.test_speaker} needs a table or a folder; "
            f"{config.data} names no speakers"
        )
    if config.data == "morse":
        return {
            split: _message_examples(split, messages, config.sampling_rate)
            for split, messages in embedded.morse().items()
        }
    if config.data.startswith("tfds:"):
        return _tensorflow_dataset(config)
    rows = read_rows(config)
    if config.test_speaker is not None:
        rows = _hold_out_speaker(rows, config)
    splits = {split: _read(each, config, split) for split, each in rows.items()}
    return {split: examples for split, examples in splits.items() if len(examples)}


def _has_rows(config):
    """Returns whether the data is a table or a folder, which may name speakers."""
    return config.data != "morse" and not config.data.startswith("tfds:")


def _message_examples(split, messages, rate):
    """Returns the `Examples` of a split of the built-in data set."""
    waveforms, texts = zip(*messages, strict=True)
    return Examples(
        [f"{split} message {i}" for i in range(len(messages))],
        [audio.change_rate(each, embedded.RATE, rate) for each in waveforms],
        list(texts),
        [""] * len(messages),
    )


def read_rows(config):
    """Returns the `Row`s of each split of a table or a folder.

    Raises:
        BadInput: There is no such file or folder, or it holds no recordings.
    """
    root = Path(config.data)
    if root.is_file():
        return _table(root, config)
    if not root.is_dir():
        raise BadInput(
            f"there is no file or folder {root}; pass --data a table of recordings, or "
            "a folder of them"
        )
    if transcripts := sorted(root.rglob("*.trans.txt")):
        return _transcripts(root, transcripts)
    if files := split_files(root):
        print_unused(root, [*files.values(), *filter(Path.is_dir, root.iterdir())])
        tables = {split: _table(path, config) for split, path in files.items()}
        return {
            split: [row for rows in table.values() for row in rows]
            for split, table in tables.items()
        }
    return _word_folders(root)


def _table(path, config):
    """Returns the rows of a table by split; `train` has all if no column names it."""
    settings = ["audio_column", "text_column", "speaker_column", "split_column"]
    columns = {name: getattr(config, name) for name in settings}
    columns = {name: column for name, column in columns.items() if column}
    rows, skipped = {}, []
    for line, values in read_table(path, columns):
        value = dict(zip(columns, values, strict=True))
        name = f"line {line} of {path}"
        if not value["audio_column"]:
            skipped.append((name, "names no audio file"))
            continue
        split = value.get("split_column", "train").lower()
        if not split:
            skipped.append((name, "names no split"))
            continue
        rows.setdefault(SPLITS.get(split, split), []).append(
            Row(
                path.parent,
                path.parent / value["audio_column"],
                value["text_column"],
                value.get("speaker_column", ""),
            )
        )
    datasets.print_skipped(skipped, "row")
    if not rows:
        raise BadInput(f"{path} has no recordings; add some")
    return rows


def _transcripts(root, files):
    """Returns the rows of a folder like LibriSpeech by split.

    Each line of a file `*.trans.txt` has the name of a recording beside the file,
    without its ending, and its text. The name begins with the speaker and a hyphen. The
    split is the one whose name begins the name of a folder, such as `dev-clean`.
    """
    rows = {}
    for path in files:
        folders = path.relative_to(root).parent.parts
        split = next(filter(None, map(_split_of_folder, folders)), "train")
        recordings = {
            each.stem: each
            for each in sorted(path.parent.iterdir())
            if each.suffix.lower() in AUDIO_ENDINGS
        }
        for line in read_lines(path):
            name, _, text = line.strip().partition(" ")
            recording = recordings.get(name, path.parent / f"{name}.flac")
            speaker = name.partition("-")[0]
            rows.setdefault(split, []).append(Row(root, recording, text, speaker))
    return rows


def _split_of_folder(name):
    """Returns the split that the name of a folder begins with, or None."""
    found = (SPLITS[each] for each in SPLITS if name.lower().startswith(each))
    return next(found, None)


def _word_folders(root):
    """Returns the rows of a folder with a folder of recordings for each word.

    There may be such folders for each split.
    """
    rows, others = {}, []
    for path in list_files(root):
        folders = path.relative_to(root).parent.parts
        split = SPLITS.get(folders[0].lower()) if len(folders) > 1 else None
        if path.suffix.lower() not in AUDIO_ENDINGS or not folders:
            others.append((name_below(root, path), "is no recording of a word"))
            continue
        rows.setdefault(split or "train", []).append(Row(root, path, folders[-1]))
    datasets.print_skipped(others)
    if not rows:
        raise BadInput(
            f"{root} has no recordings; make a folder of WAV, FLAC, OGG or MP3 files "
            "for each word, or pass --data a table"
        )
    return rows


def read_speakers(config):
    """Returns the names of all speakers.

    Raises:
        BadInput: The data names fewer than two.
    """
    rows = read_rows(config) if _has_rows(config) else {}
    speakers = sorted({row.speaker for each in rows.values() for row in each} - {""})
    if len(speakers) < 2:
        raise BadInput(
            f"--leave-one-speaker-out needs two speakers at least, and {config.data} "
            f"names {len(speakers)}; name their column with --speaker-column"
        )
    return speakers


def _hold_out_speaker(rows, config):
    """Returns the rows with one speaker for testing and the others for training."""
    everything = [row for each in rows.values() for row in each]
    speakers = sorted({row.speaker for row in everything})
    if config.test_speaker not in speakers:
        raise BadInput(
            f"--test-speaker {config.test_speaker} is none of the speakers of "
            f"{config.data}{closest(config.test_speaker, speakers)}"
        )
    is_test = [row.speaker == config.test_speaker for row in everything]
    return {
        "train": [
            row for row, test in zip(everything, is_test, strict=True) if not test
        ],
        "test": [row for row, test in zip(everything, is_test, strict=True) if test],
    }


def _read(rows, config, split):
    """Returns the `Examples` of some rows; what cannot be used is skipped and named."""
    most, limit = MAX_SECONDS, f"{MAX_SECONDS} seconds"
    if split == "train":
        most, limit = config.max_seconds, f"--max-seconds {config.max_seconds:g}"

    def read(row):
        text = " ".join(row.text.split())
        if not text and split == "train":
            return "has no text"
        try:
            if audio.read_seconds(row.path) > most:
                return f"is longer than {limit}"
            waveform = audio.read_audio(row.path, config.sampling_rate)
        except BadInput as error:
            return str(error)
        return (waveform, text) if len(waveform) else "has no samples"

    with ThreadPoolExecutor() as pool:
        found = list(
            tqdm(
                pool.map(read, rows),
                f"reading {split}",
                len(rows),
                unit="recording",
                disable=None,
                leave=False,
            )
        )
    skipped = [
        (str(row.path), reason)
        for row, reason in zip(rows, found, strict=True)
        if isinstance(reason, str)
    ]
    datasets.print_skipped(skipped, "recording")
    kept = [i for i, each in enumerate(found) if not isinstance(each, str)]
    return Examples(
        [os.path.relpath(rows[i].path, rows[i].root) for i in kept],
        [found[i][0] for i in kept],
        [found[i][1] for i in kept],
        [rows[i].speaker for i in kept],
    )


def _tensorflow_dataset(config):
    """Returns the `Examples` of each split of a data set of TensorFlow Datasets."""
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    columns = config.audio_column, config.text_column
    sources, features = datasets.read_tensorflow_dataset(
        config.data.removeprefix("tfds:"), columns, "speech recognition"
    )
    sound, text = (features[column] for column in columns)
    is_text = isinstance(text, tfds.features.Text | tfds.features.ClassLabel)
    if not isinstance(sound, tfds.features.Audio) or not is_text:
        raise BadInput(
            f"{config.data}: `{columns[0]}` is no audio, or `{columns[1]}` is no text; "
            "name other features with --audio-column and --text-column"
        )
    rate = sound.sample_rate
    if not rate:
        raise BadInput(f"{config.data} does not say its sampling rate")

    def text_of(value):
        return value.decode() if isinstance(value, bytes) else text.int2str(value)

    return {
        split: Examples(
            [f"{config.data} {split} {i}" for i in range(len(records))],
            [
                audio.change_rate(
                    record[columns[0]].astype("float32") / 2**15,
                    rate,
                    config.sampling_rate,
                )
                for record in records
            ],
            [text_of(record[columns[1]]) for record in records],
            [""] * len(records),
        )
        for split, records in sources.items()
    }


def make_batches(examples, config, tokenizer, training=False):
    """Returns batches of recordings of similar lengths.

    Args:
        examples: The `Examples`.
        config: Gives the batch size, the augmentation and the seed.
        tokenizer: A `Tokenizer`.
        training: Whether to shuffle and to augment.

    Returns:
        A `tf.data.Dataset` of pairs: the waveforms, float32 `(batch, samples)`, padded
        with zeros, and the number of samples of each, int32 `(batch,)`; and the token
        ids, int32 `(batch, tokens)`, padded with 0.
    """
    token_ids = [np.array(tokenizer.encode(text), "int32") for text in examples.texts]

    def read(i):
        return examples.waveforms[i], token_ids[i]

    def load(i):
        samples, ids = tf.numpy_function(read, [i], (tf.float32, tf.int32))
        samples, ids = tf.ensure_shape(samples, [None]), tf.ensure_shape(ids, [None])
        length = tf.shape(samples)[0]  # Decides on the bucket, whatever the speed.
        if training:
            samples = augment(samples, config)
        return (samples, tf.shape(samples)[0]), ids, length

    dataset = tf.data.Dataset.range(len(examples))
    if training:
        dataset = dataset.shuffle(len(examples), seed=config.seed)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    boundaries = [round(each * config.sampling_rate) for each in BUCKET_BOUNDARIES]
    dataset = dataset.bucket_by_sequence_length(
        lambda *example: example[-1],
        boundaries,
        [config.batch_size] * (len(boundaries) + 1),
    )
    buckets = np.digitize([len(each) for each in examples.waveforms], boundaries)
    num_batches = int((-(-np.bincount(buckets) // config.batch_size)).sum())
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset.map(lambda inputs, ids, _: (inputs, ids)).prefetch(2)


def augment(samples, config):
    """Changes a waveform, float32 `(samples,)`, at random: its speed, gain and noise.

    Reference:
        [Ko et al., 2015](https://www.isca-archive.org/interspeech_2015/ko15_interspeech.html),
        speed
    """
    if config.speed != (1, 1):
        rate = tf.random.uniform([], *config.speed) * config.sampling_rate
        samples = audio.resample(samples, tf.cast(rate, tf.int32), config.sampling_rate)
    if config.noise:
        power = tf.reduce_mean(tf.square(samples))
        decibels = tf.random.uniform([], *config.signal_to_noise)
        noise = tf.random.normal(tf.shape(samples))
        noise *= tf.sqrt(power / 10 ** (decibels / 10))
        is_noisy = tf.random.uniform([]) < config.noise
        samples += tf.where(is_noisy, noise, 0)
    if config.gain:
        samples *= 10 ** (tf.random.uniform([], -config.gain, config.gain) / 20)
    return samples
