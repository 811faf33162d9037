"""The description of speech recognition for the application contract."""

import io
import re

import numpy as np
import soundfile

from apps.speech_recognition.export import exam
from tests.apps.app_contract import App, fixtures
from tests.apps.speech_recognition import tones


def write_data(folder):
    """Writes a folder with a table of recordings, as users have it."""
    tones.write(folder / "tones", range(80), "train.tsv")
    return folder / "tones"


def add_data(folder):
    header, *rows = (folder / "train.tsv").read_text().splitlines(keepends=True)
    tones.write(folder, range(100, 140), "train.tsv")
    _, *more = (folder / "train.tsv").read_text().splitlines(keepends=True)
    (folder / "train.tsv").write_text("".join([header, *more, *rows]))


def encode(waveform, rate=tones.RATE, subtype="PCM_16"):
    """Returns a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, subtype, format="WAV")
    return file.getvalue()


def inputs(folder):
    """Returns recordings of several encodings, rates and channel counts."""
    waveforms = [tones.draw(seed)[0] for seed in range(200, 206)]
    stereo = np.repeat(np.stack([waveforms[1]] * 2, 1), 2, axis=0)
    return [
        *map(encode, waveforms),
        encode(waveforms[0], subtype="PCM_24"),
        encode(waveforms[0], subtype="FLOAT"),
        encode(stereo, 2 * tones.RATE),
        encode(np.zeros(8_000)),
        encode(np.zeros(1)),
    ]


def arguments(folder):
    """Returns the paths of recordings whose format the device reads."""
    return [folder / f"audio/{seed}.wav" for seed in (0, 2, 4)]


def check_alike(answers, expected, engine, signature):
    is_alike = answers["transcripts"] == expected["transcripts"]
    # Resampling on a device differs in the last digits.
    assert is_alike.mean() >= (0.9 if engine == "recommended" else 1)
    assert len(set(answers["transcripts"][:6])) > 3
    # The SavedModel stores its weights in half precision.
    ours, theirs = (each["scores"][is_alike] for each in (answers, expected))
    np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=0.02)
    is_alike &= answers["word_times"] != expected["word_times"]
    assert is_alike.mean() < 0.2


def unreadable(folder):
    """Returns the field `unreadable` of the `App`."""
    waveform = tones.draw(0)[0]
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "music.mp3", np.zeros(8_000), 8_000, format="MP3")
    (folder / "long.wav").write_bytes(encode(np.zeros(8_000 * 600)))
    (folder / "headless.wav").write_bytes(encode(waveform)[44:])
    (folder / "nothing.wav").write_bytes(encode(np.zeros(0)))
    return [
        (["text.wav"], "text.wav cannot be read as audio", "is no WAV file"),
        (["empty.wav"], "empty.wav cannot be read as audio", "is no WAV file"),
        (["music.mp3"], None, "is no WAV file"),
        (["long.wav"], None, "is longer than 60 seconds"),
        (["headless.wav"], "headless.wav cannot be read as audio", "is no WAV file"),
        (["nothing.wav"], "nothing.wav has no samples", "has no samples"),
        (["nowhere.wav"], "there is no file nowhere.wav", "there is no file"),
    ]


TEXTS = [tones.draw(seed)[1] for seed in (0, 2, 4)]
OUTPUTS = {"transcripts", "scores", "word_times", "errors"}

APP = App(
    "speech_recognition",
    write_data=write_data,
    add_data=add_data,
    settings={**tones.SMALL, "speaker_column": "speaker"},
    num_examples={"train": 54, "validation": 6, "test": 20},
    inputs=inputs,
    arguments=arguments,
    answers=[rf"\.wav\t{re.escape(text)}$" for text in TEXTS],
    device_answers=[rf"\.wav\t{re.escape(text)}$" for text in TEXTS],
    signatures={
        "serving_default": ("audio_bytes", OUTPUTS),
        "greedy": ("audio_bytes", OUTPUTS),
        "tensors": ("samples", OUTPUTS),
    },
    tensors=np.stack([np.resize(tones.draw(seed)[0], 6_000) for seed in (200, 201)]),
    tolerance=1e-3,
    check_alike=check_alike,
    make_exam=lambda examples, config: exam(examples, config.sampling_rate),
    spoil=lambda answers: {
        **answers,
        "transcripts": np.full_like(answers["transcripts"], b"something else"),
    },
    metric="accuracy",
    min_score=0.8,
    engines=["trained model", "SavedModel", "float32", "dynamic_range"],
    operations=["UNIDIRECTIONAL_SEQUENCE_LSTM"],
    bundle={"search.json", "tokens.json"},
    requirements=[],
    run_files=["model.keras", "tokens.json"],
    figures={"worst.png"},
    unreadable=unreadable,
    preset=("spoken_digit", "spoken_digits"),
    released={
        "SavedModel": {"accuracy": 0.99},
        "dynamic_range": {"accuracy": 0.99},
    },
    max_released_mb=15,
    counted="recordings",
)

globals().update(fixtures(APP))
