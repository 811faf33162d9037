import numpy as np
import pytest
import soundfile
import tensorflow as tf

from apps.common import datasets
from apps.common.errors import BadInput
from apps.speech_recognition import data, embedded
from apps.speech_recognition.config import Config
from apps.speech_recognition.data import Examples
from apps.speech_recognition.tokenizer import make_tokenizer
from tests.apps.speech_recognition import tones


def read(path, **settings):
    return data.read_splits(Config(str(path), sampling_rate=tones.RATE, **settings))


def record(path, samples=800, rate=tones.RATE, **options):
    """Writes a quiet recording."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = np.random.default_rng(0).normal(0, 0.1, samples)
    soundfile.write(path, waveform.clip(-1, 1), rate, **options)


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def test_a_table_names_its_columns_and_its_splits(tmp_path):
    for name in "abcd":
        record(tmp_path / f"sound/{name}.wav")
    table = write(
        tmp_path / "all.csv",
        "who;file;said;part",
        "ann;sound/a.wav; one  two ;train",
        "bob;sound/b.wav;three;Valid",
        "ann;sound/c.wav;four;test",
        "bob;sound/d.wav;five;dev-noisy",
    )
    splits = read(
        table,
        audio_column="file",
        text_column="said",
        speaker_column="who",
        split_column="part",
    )
    assert {split: (each.names, each.texts) for split, each in splits.items()} == {
        "train": (["sound/a.wav"], ["one two"]),
        "validation": (["sound/b.wav"], ["three"]),
        "test": (["sound/c.wav"], ["four"]),
        "dev-noisy": (["sound/d.wav"], ["five"]),
    }
    assert splits["train"].speakers == ["ann"]


def test_tables_of_a_folder_are_splits(tmp_path, capsys):
    record(tmp_path / "a.wav")
    write(tmp_path / "train.tsv", "audio\ttext", "a.wav\tone")
    write(tmp_path / "test.tsv", "audio\ttext", "a.wav\ttwo")
    write(tmp_path / "notes.txt", "nothing")
    splits = read(tmp_path)
    assert {split: each.texts for split, each in splits.items()} == {
        "train": ["one"],
        "test": ["two"],
    }
    assert "notes.txt" in capsys.readouterr().err


def test_a_folder_like_librispeech_is_read(tmp_path):
    for split, speaker in (("train-clean-5", "84"), ("dev-clean", "17")):
        folder = tmp_path / split / speaker / "121"
        names = [f"{speaker}-121-000{i}" for i in range(2)]
        record(folder / f"{names[0]}.flac")
        record(folder / f"{names[1]}.wav")
        write(
            folder / f"{speaker}-121.trans.txt",
            *(f"{name} SAID {name[-1]}" for name in names),
        )
    splits = read(tmp_path)
    assert splits["train"].texts == ["SAID 0", "SAID 1"]
    assert splits["train"].speakers == ["84", "84"]
    assert splits["validation"].names == [
        "dev-clean/17/121/17-121-0000.flac",
        "dev-clean/17/121/17-121-0001.wav",
    ]


@pytest.mark.parametrize("has_splits", [False, True])
def test_a_folder_for_each_word_is_read(tmp_path, capsys, has_splits):
    for split in ("train", "test") if has_splits else ("",):
        for word in ("go", "stop"):
            record(tmp_path / split / word / "1.wav")
            record(tmp_path / split / word / "2.ogg")
    write(tmp_path / "README.txt", "words")
    splits = read(tmp_path)
    assert set(splits) == ({"train", "test"} if has_splits else {"train"})
    assert splits["train"].texts == ["go", "go", "stop", "stop"]
    assert "README.txt" in capsys.readouterr().err


def test_what_cannot_be_used_is_skipped_and_named(tmp_path, capsys):
    record(tmp_path / "good.wav")
    record(tmp_path / "long.wav", samples=tones.RATE * 3)
    record(tmp_path / "empty.wav", samples=0)
    write(tmp_path / "text.wav", "no audio")
    rows = [f"{name}.wav\tso" for name in ("good", "long", "empty", "text", "missing")]
    table = write(tmp_path / "a.tsv", "audio\ttext", *rows, "good.wav\t ", "\tso")
    splits = read(table, max_seconds=2.0)
    assert splits["train"].names == ["good.wav"]
    said = capsys.readouterr().err
    for part in (
        "long.wav",
        "is longer than --max-seconds 2",
        "empty.wav",
        "has no samples",
        "text.wav cannot be read as audio",
        "there is no file",
        "missing.wav",
        "has no text",
        "line 8",
        "names no audio file",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("rate", "channels", "options"),
    [
        (44_100, 2, {"subtype": "PCM_24"}),
        (16_000, 1, {"format": "FLAC"}),
        (22_050, 1, {"format": "MP3"}),
        (48_000, 2, {"format": "OGG"}),
    ],
)
def test_any_rate_and_number_of_channels_is_read(tmp_path, rate, channels, options):
    seconds, hertz = 0.5, 440
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(seconds * rate) / rate)
    path = tmp_path / "word/a.wav"  # The name does not matter.
    path.parent.mkdir()
    samples = np.stack([wave] * channels, axis=1)
    soundfile.write(path, samples, rate, **{"format": "WAV", **options})
    (waveform,) = read(tmp_path)["train"].waveforms
    assert len(waveform) == pytest.approx(seconds * tones.RATE, rel=0.1)
    middle = waveform[1_000:3_000]
    peak = np.abs(np.fft.rfft(middle * np.hanning(2_000))).argmax()
    assert peak * tones.RATE / 2_000 == pytest.approx(hertz, abs=8)
    assert np.abs(middle).max() == pytest.approx(0.5, rel=0.1)


def test_whole_speakers_are_held_out_for_testing():
    speakers = [name for name in "abcdefgh" for _ in range(3)]
    numbers = [str(i) for i in range(24)]
    some = data.Examples(numbers, [np.zeros(9)] * 24, numbers, speakers)
    splits = datasets.complete_splits({"train": some}, Config(""))
    assert len(set(splits["test"].speakers)) == 2
    assert len(splits["test"]) == 6
    others = splits["train"].speakers + splits["validation"].speakers
    assert not set(splits["test"].speakers) & set(others)
    again = datasets.complete_splits({"train": some}, Config(""), splits.held_out)
    assert again["test"].names == splits["test"].names
    # Three speakers are too few.
    few = datasets.take(some, range(9))
    splits = datasets.complete_splits({"train": few}, Config(""))
    assert len(splits["test"]) == 2


def test_a_speaker_is_left_out(tmp_path):
    table = tones.write(tmp_path, range(6))
    config = {"speaker_column": "speaker"}
    splits = read(table, test_speaker="bob", **config)
    assert set(splits["train"].speakers) == {"ann"}
    assert splits["test"].speakers == ["bob"] * 3
    says = r"--test-speaker bop is none of the speakers .* did you mean 'bob'"
    with pytest.raises(BadInput, match=says):
        read(table, test_speaker="bop", **config)
    assert data.read_speakers(Config(str(table), **config)) == ["ann", "bob"]


@pytest.mark.parametrize("name", ["morse", "tfds:speech_commands"])
def test_data_without_speakers_cannot_leave_one_out(name):
    says = f"{name} names 0; name their column with --speaker-column"
    with pytest.raises(BadInput, match=says):
        data.read_speakers(Config(name))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root / "nowhere", "there is no file or folder"),
        (lambda root: root, "has no recordings; make a folder"),
        (
            lambda root: write(root / "a.tsv", "file\ttext", "a.wav\tso"),
            "audio",
        ),
        (lambda root: write(root / "a.tsv", "audio\ttext"), "a.tsv"),
    ],
)
def test_unusable_data_is_refused(tmp_path, make, says):
    with pytest.raises(BadInput, match=says):
        read(make(tmp_path))


def examples(*lengths):
    return Examples(
        [str(i) for i in range(len(lengths))],
        [np.full(n, 0.1 + 0.01 * i, "float32") for i, n in enumerate(lengths)],
        ["ab" if n > 3_000 else "a" for n in lengths],
        [""] * len(lengths),
    )


def test_a_batch_has_recordings_of_similar_lengths():
    some = examples(*range(500, 20_000, 300))
    config = Config("", sampling_rate=8_000, batch_size=4)
    tokenizer = make_tokenizer(some.texts, config)
    batches = data.make_batches(some, config, tokenizer)
    assert len(batches) == sum(1 for _ in batches)
    seen = []
    for (samples, lengths), token_ids in batches.as_numpy_iterator():
        assert len(samples) <= 4
        assert lengths.max() == samples.shape[1]
        # Recordings of less than half a second share the first bucket.
        assert lengths.max() < 4_000 or lengths.min() > 0.6 * lengths.max()
        for row, length, ids in zip(samples, lengths, token_ids, strict=True):
            assert not row[length:].any()
            assert tokenizer.decode(ids) == ("ab" if length > 3_000 else "a")
            seen.append(length)
    assert sorted(seen) == list(range(500, 20_000, 300))


def test_augmentation_changes_speed_gain_and_noise():
    tf.random.set_seed(0)
    wave = 0.1 * np.sin(2 * np.pi * 500 * np.arange(8_000) / 8_000).astype("float32")
    plain = {"noise": 0.0, "speed": (1.0, 1.0), "gain": 0.0, "sampling_rate": 8_000}

    def augment(**settings):
        return np.asarray(data.augment(wave, Config("", **{**plain, **settings})))

    np.testing.assert_array_equal(augment(), wave)
    assert len(augment(speed=(1.25, 1.25))) == pytest.approx(6_400, abs=10)
    louder = augment(gain=6.0)
    decibels = 20 * np.log10(np.abs(louder).max() / 0.1)
    assert 0.01 < abs(decibels) <= 6.01
    noisy = augment(noise=1.0, signal_to_noise=(10.0, 10.0))
    ratio = 10 * np.log10(np.mean(wave**2) / np.mean((noisy - wave) ** 2))
    assert ratio == pytest.approx(10, abs=0.5)


def test_the_built_in_messages_are_read():
    splits = data.load_examples(Config("morse", sampling_rate=4_000))
    assert {split: len(splits[split]) for split in ("train", "validation", "test")} == {
        "train": 1_800,
        "validation": 200,
        "test": 400,
    }
    waveform, text = embedded.morse()["test"][0]
    assert splits["test"].texts[0] == text
    assert len(splits["test"].waveforms[0]) == pytest.approx(len(waveform) / 2, abs=1)
