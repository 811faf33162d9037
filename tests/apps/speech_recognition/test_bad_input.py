"""Refusals that only speech recognition has; the contract checks the others."""

import pytest

from tests.apps.speech_recognition import tones


@pytest.fixture
def table(tmp_path):
    return tones.write(tmp_path, range(12))


def test_columns_that_are_missing_are_named(refused, table):
    train = ["train", "--data", table]
    refused(*train, "--text-column", "said", says=["no column 'said'", "audio"])
    refused(*train, "--speaker-column", "who", says=["no column 'who'"])


def test_a_table_without_its_audio_files_is_refused(refused, table, tmp_path):
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    says = ["has no recordings for training", table.name]
    refused("train", "--data", table, says=says)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--sampling-rate", 8_050], "must be a multiple of 100"),
        (["--sampling-rate", 100], "--sampling-rate 100"),
        (["--speed", 1.1, 0.9], "--speed 1.1 0.9 must be in order"),
        (["--signal-to-noise", 30, 5], "must be in order"),
        (["--word-list", "nowhere.txt"], "nowhere.txt"),
        (["--word-list", "train", "--token", "word"], "needs --token character"),
        (["--word-list", "train", "--decoder", "attention"], "needs --decoder ctc"),
        (["--test-speaker", "ann"], "--test-speaker ann is none of the speakers"),
        (["--leave-one-speaker-out"], "name their column with --speaker-column"),
        (["--num-layers", 0], "--num-layers 0"),
        (["--streaming", "--decoder", "attention"], "--streaming needs --decoder ctc"),
        (["--max-seconds", 100], "--max-seconds 100"),
    ],
)
def test_settings_that_do_not_fit_are_refused(flags, says, refused, table):
    refused("train", "--data", table, *flags, says=[says])


def test_a_word_list_without_usable_words_is_refused(refused, table, tmp_path):
    (tmp_path / "words.txt").write_text("xyz\nüü\n")
    flags = ["--word-list", tmp_path / "words.txt"]
    refused("train", "--data", table, *flags, says=["no word that can be written"])


def test_the_length_of_a_microphone_recording_has_limits(refused, run):
    predict = ["predict", "--model", run, "--microphone"]
    refused(*predict, 0, says=["--microphone"])
    refused(*predict, 600, says=["--microphone"])


def test_built_in_data_has_no_speakers(refused):
    says = ["--test-speaker ann needs a table or a folder; morse names no speakers"]
    refused("train", "morse", "--test-speaker", "ann", says=says)
