import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from apps.speech_recognition import signatures
from apps.speech_recognition.predict import subtitles
from tests.apps.app_contract import run_app, succeed
from tests.apps.speech_recognition import tones


@pytest.fixture
def predict(run, tmp_path):
    """Runs `predict` with the short training; returns what it prints."""

    def predict(*arguments):
        figure = tmp_path / "figure.png"
        return succeed(
            "speech_recognition",
            *("predict", *arguments, "--model", run, "--figure", figure),
        )

    return predict


def test_a_long_recording_is_transcribed_in_pieces(predict, tmp_path, monkeypatch):
    texts, parts = [], []
    for seed in range(300, 330):
        waveform, text, _ = tones.draw(seed)
        texts.append(text)
        parts += [waveform, np.zeros(4_000, "float32")]
    soundfile.write(tmp_path / "long.flac", np.concatenate(parts), tones.RATE)
    seconds = sum(map(len, parts)) / tones.RATE
    assert seconds > 2 * 20  # More than two pieces.
    asked = []
    load_model = signatures.load_model

    def spy(where):
        predictor = load_model(where)

        def answer(files):
            asked.append(len(files[0]))
            return predictor(files)

        return answer

    monkeypatch.setattr("apps.speech_recognition.predict.load_model", spy)
    out = predict(tmp_path / "long.flac", "--json", tmp_path / "a.json")
    assert max(asked) <= 4 * 20 * tones.RATE + 100
    assert len(asked) > 2
    (answer,) = json.loads((tmp_path / "a.json").read_text())
    assert answer["transcript"] in out
    # The small model may join words.
    letters = answer["transcript"].replace(" ", "")
    said = "".join(texts).replace(" ", "")
    assert len(letters) == pytest.approx(len(said), rel=0.1)
    starts = [start for start, _, _ in answer["words"]]
    assert starts == sorted(starts)
    assert seconds - 5 < starts[-1] < seconds


def test_subtitles_have_the_times_of_the_words(predict, tmp_path):
    waveform, text, _ = tones.draw(0)
    soundfile.write(tmp_path / "a.wav", waveform, tones.RATE)
    predict(tmp_path / "a.wav", "--srt", tmp_path / "a.srt")
    number, times, words, *_ = (tmp_path / "a.srt").read_text().splitlines()
    assert number == "1"
    assert times.startswith("00:00:00,")
    assert " --> 00:00:0" in times
    assert words == text


def test_subtitles_are_divided_at_pauses_and_after_some_words():
    words = [(0.5 * i, 0.5 * i + 0.4, f"w{i}") for i in range(10)]
    words += [(3_725.25, 3_726.0, "late")]
    assert subtitles(words) == (
        "1\n00:00:00,000 --> 00:00:03,900\nw0 w1 w2 w3 w4 w5 w6 w7\n\n"
        "2\n00:00:04,000 --> 00:00:04,900\nw8 w9\n\n"
        "3\n01:02:05,250 --> 01:02:06,000\nlate\n"
    )


def test_subtitles_are_those_of_one_recording(run, own_data, refused):
    predict = ["predict", own_data / "audio", "--model", run, "--srt", "a.srt"]
    refused(*predict, says=["--srt a.srt has room for one recording"])


def test_a_folder_is_expanded(predict, own_data):
    lines = predict(own_data / "audio").splitlines()
    assert len(lines) == 81  # 80 recordings, and the figure.


def test_the_microphone_is_used(predict, monkeypatch):
    waveform, text, _ = tones.draw(0)
    calls = []

    def rec(samples, rate, **options):
        calls.append((samples, rate, options["channels"]))
        return waveform[:, None]

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(rec=rec))
    out = predict("--microphone", 2)
    assert calls == [(2 * tones.RATE, tones.RATE, 1)]
    assert f"microphone\t{text}\n" in out


def test_without_a_microphone_there_is_a_sentence(run, refused, monkeypatch):
    class PortAudioError(Exception):
        pass

    def rec(*arguments, **options):
        raise PortAudioError("Error querying device -1")

    predict = ["predict", "--model", run, "--microphone", 1]
    monkeypatch.setitem(
        sys.modules,
        "sounddevice",
        SimpleNamespace(rec=rec, PortAudioError=PortAudioError),
    )
    refused(*predict, says=["microphone cannot be read: Error querying", "pass it"])
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    refused(*predict, says=["keras-apps[microphone]"])


def test_silence_and_a_single_sample_have_no_words(predict, tmp_path):
    for name, samples in (("silence", 16_000), ("one", 1)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(samples), tones.RATE)
        assert f"{name}.wav\t\n" in predict(tmp_path / f"{name}.wav")


def test_recordings_need_no_training_data(predict, tmp_path, monkeypatch):
    monkeypatch.delattr("apps.speech_recognition.predict.data_settings")
    waveform, text, _ = tones.draw(0)
    soundfile.write(tmp_path / "a.wav", waveform, tones.RATE)
    assert f"a.wav\t{text}\n" in predict(tmp_path / "a.wav")


def test_an_mp3_file_that_is_called_wav_is_read(predict, tmp_path):
    waveform, text, _ = tones.draw(0)
    soundfile.write(tmp_path / "a.wav", waveform, tones.RATE, format="MP3")
    assert f"a.wav\t{text}\n" in predict(tmp_path / "a.wav")


def test_a_folder_without_recordings_is_refused(run, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    result = run_app("speech_recognition", "predict", tmp_path, "--model", run)
    assert result.status == 2
    assert "has no recordings" in result.err
