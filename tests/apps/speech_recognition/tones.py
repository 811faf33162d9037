"""A small data set: each letter is a tone of its own."""

import numpy as np
import soundfile

RATE = 8_000
HERTZ = {"a": 400, "b": 800, "c": 1_400, "d": 2_200}
WORDS = ("ab", "ba", "cad", "dab", "cc", "bad")
SPEAKERS = ("ann", "bob")


def render(text, random):
    """Returns a text as tones, float32 `(samples,)`; a space is silence."""
    parts = [np.zeros(800)]
    for letter in text:
        length = random.integers(900, 1_300)
        t = np.arange(length) / RATE
        tone = np.sin(2 * np.pi * HERTZ.get(letter, 0) * t) * np.hanning(length)
        parts += [0.5 * tone, np.zeros(300)]
    waveform = np.concatenate([*parts, np.zeros(500)])
    waveform += random.normal(0, 0.01, len(waveform))
    return np.pad(waveform, 400).astype("float32")  # Silence, as between files.


def draw(seed):
    """Draws a recording; returns its waveform, text and speaker."""
    random = np.random.default_rng(seed)
    text = " ".join(random.choice(WORDS, random.integers(1, 4)))
    return render(text, random), text, SPEAKERS[seed % 2]


def write(folder, seeds, name="recordings.tsv"):
    """Writes recordings and their table; returns the table."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rows = ["audio\ttext\tspeaker\n"]
    for seed in seeds:
        waveform, text, speaker = draw(seed)
        path = f"audio/{seed}.{('wav', 'flac')[seed % 2]}"
        soundfile.write(folder / path, waveform, RATE)
        rows.append(f"{path}\t{text}\t{speaker}\n")
    (folder / name).write_text("".join(rows), "utf-8")
    return folder / name


SMALL = {
    "sampling_rate": RATE,
    "num_mels": 24,
    "filters": 8,
    "units": 24,
    "num_layers": 1,
    "subsampling": 4,
    "dropout": 0.0,
    "noise": 0.0,
    "speed": (1.0, 1.0),
    "time_masks": 0,
    "frequency_masks": 0,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "short_epochs": 0,
    "epochs": 16,
    "min_steps": 0,
}
