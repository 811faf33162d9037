import numpy as np

from apps.speech_recognition import embedded
from apps.speech_recognition.embedded import CODES, RATE


def decode(waveform, unit_seconds):
    """Reads the text of a clean waveform from the lengths of tones and silences."""
    size = 80
    envelope = np.sqrt(np.convolve(waveform**2, np.ones(size) / size, "same"))
    edges = np.diff(np.pad((envelope > 0.35).astype(int), 1))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    letters = {code: letter for letter, code in CODES.items()}
    text, code = "", ""
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        code += "." if (end - start) / RATE < 2 * unit_seconds else "-"
        after = starts[i + 1] if i + 1 < len(starts) else end + 10**6
        silence = (after - end) / RATE / unit_seconds
        if silence > 2:
            text, code = text + letters[code], ""
        if silence > 5:
            text += " "
    return text.strip()


def test_the_tones_say_the_text():
    text = "the quick brown fox jumps over 13 lazy dogs 2456789 0"
    waveform = embedded.render(text, 0.06, 600, 0.05, np.random.default_rng(0))
    assert decode(waveform, 0.06) == text


def test_a_word_has_fifty_units():
    waveform = embedded.render("paris", 0.05, 600, 0, np.random.default_rng(0))
    assert abs(len(waveform) / RATE - 43 * 0.05) < 0.01  # Without the gap of 7 units.


def test_messages():
    found = embedded.morse(60)
    assert {name: len(rows) for name, rows in found.items()} == {
        "train": 50,
        "test": 10,
    }
    for waveform, text in found["train"] + found["test"]:
        assert waveform.dtype == np.float32
        assert np.abs(waveform).max() < 0.51
        assert set(text) <= {*CODES, " "}
        assert 0.2 < len(waveform) / RATE < 12
    again = embedded.morse(60)["test"][3]
    np.testing.assert_array_equal(again[0], found["test"][3][0])


def test_the_noise_of_test_messages_is_10_decibels_below_the_tone():
    levels = []
    for waveform, _ in embedded.morse(30)["test"]:
        noise = waveform[:400].std()  # Before the message.
        powers = np.convolve(waveform**2, np.ones(200) / 200, "valid")
        levels.append(10 * np.log10((powers.max() - noise**2) / noise**2))
    assert 9 < np.median(levels) < 12
