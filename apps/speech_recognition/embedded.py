"""The built-in data set: words in Morse code, which needs no download."""

import string

import numpy as np

RATE = 8_000
# International Morse code (ITU-R M.1677-1).
SIGNS = """
.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...-
.-- -..- -.-- --..
----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----.
"""
CODES = dict(zip(string.ascii_lowercase + string.digits, SIGNS.split(), strict=True))
# Lengths in units, as the standard has them.
DOT, DASH, GAP, LETTER_GAP, WORD_GAP = 1, 3, 1, 3, 7
RISE_SECONDS = 0.005  # Of a tone, so that it does not click.


def morse(num_messages=2_400, seed=0):
    """Draws messages in Morse code.

    A message has one to three words of two to five random letters and digits. Its
    speed, its pitch and the timing of the hand that sends it vary. The noise of the
    test messages is 10 dB below the tone; that of the training messages varies around
    it. Half of the training messages are single words of one to five letters.

    Args:
        num_messages: Number of messages; five sixths are for training, the others for
            testing. Defaults to 2,400.
        seed: Seed of the drawing.

    Returns:
        For `train` and `test` a list of pairs: the waveform, float32 `(samples,)` at
        `RATE`, and its text.
    """
    random = np.random.default_rng(seed)
    num_test = num_messages // 6
    return {
        "train": [
            _message(random, random.uniform(5, 20), is_short=i % 2 == 0)
            for i in range(num_messages - num_test)
        ],
        "test": [_message(random, 10.0) for _ in range(num_test)],
    }


def _message(random, decibels, is_short=False):
    """Draws a message; the tone is so many decibels above the noise."""
    min_letters, max_words = (1, 1) if is_short else (2, 3)
    words = [
        "".join(random.choice(list(CODES), random.integers(min_letters, 6)))
        for _ in range(random.integers(1, max_words + 1))
    ]
    text = " ".join(words)
    waveform = render(
        text,
        unit_seconds=1.2 / random.uniform(25, 45),  # Words a minute.
        hertz=random.uniform(400, 900),
        unevenness=random.uniform(0, 0.1),
        random=random,
    )
    silence = [np.zeros(random.integers(400, 2_400)) for _ in range(2)]
    waveform = np.concatenate([silence[0], waveform, silence[1]])
    # The power of a sine is half its squared amplitude.
    scale = np.sqrt(0.5 / 10 ** (decibels / 10))
    waveform = waveform + random.normal(0, scale, len(waveform))
    waveform *= random.uniform(0.1, 0.5) / np.abs(waveform).max()
    return waveform.astype("float32"), text


def render(text, unit_seconds, hertz, unevenness, random):
    """Returns a text in Morse code as a waveform, float64 `(samples,)` at `RATE`.

    Args:
        text: Letters, digits and spaces.
        unit_seconds: The length of a dot.
        hertz: The frequency of the tone, whose amplitude is 1.
        unevenness: The standard deviation of all lengths, as a fraction of them.
        random: A NumPy random generator.
    """
    lengths = []  # Of tone and silence in turns, in units.
    for word in text.split():
        for letter in word:
            for sign in CODES[letter]:
                lengths += [DOT if sign == "." else DASH, GAP]
            lengths[-1] = LETTER_GAP
        lengths[-1] = WORD_GAP
    lengths = np.array(lengths[:-1], float)
    lengths *= np.clip(random.normal(1, unevenness, len(lengths)), 0.7, 1.3)
    ends = np.cumsum(lengths * unit_seconds)
    starts = ends - lengths * unit_seconds
    t = np.arange(round(ends[-1] * RATE)) / RATE
    envelope = np.zeros_like(t)
    for start, end in zip(starts[::2], ends[::2], strict=True):
        first, last = round(start * RATE), round(end * RATE)
        inside = t[first:last]
        edge = np.minimum(inside - start, end - inside) / RISE_SECONDS
        envelope[first:last] = np.sin(np.pi / 2 * np.clip(edge, 0, 1)) ** 2
    return envelope * np.sin(2 * np.pi * hertz * t)
