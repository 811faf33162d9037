import functools

import numpy as np
import pytest
import tensorflow as tf

from apps.common import audio, saved_models
from apps.common.errors import BadInput
from apps.common.limits import MAX_INPUTS
from apps.speech_recognition.config import Config
from apps.speech_recognition.export import served
from apps.speech_recognition.signatures import (
    MAX_SECONDS,
    QUIETEST,
    Transcriber,
    load_model,
    word_times,
)
from apps.speech_recognition.tokenizer import Tokenizer
from tests.apps.speech_recognition.conftest import encode as wav
from tests.apps.speech_recognition.test_model import NUM_TOKENS, TINY, tiny_model

RATE = TINY["sampling_rate"]
TOKENS = ["", " ", "a", "b", "c"]


@functools.cache
def transcriber():
    """Returns a transcriber with random weights, which writes some letters."""
    assert len(TOKENS) == NUM_TOKENS
    network = tiny_model(subsampling=4)
    random = np.random.default_rng(1)
    for weight in network.trainable_variables:
        weight.assign(random.normal(0, 0.7, weight.shape))
    return Transcriber(
        network, Tokenizer("character", TOKENS), Config("", beam_size=4, **TINY)
    )


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "1"
    saved_models.save(served(transcriber()), folder)
    return folder


@pytest.fixture(scope="module")
def ask(saved_model):
    """Function of a signature and its input that returns arrays, `errors` included.

    Nothing but the graph of the SavedModel checks inputs, as in a server.
    """
    loaded = tf.saved_model.load(str(saved_model))

    def ask(signature, values):
        function = loaded.signatures[signature]
        ((name, spec),) = function.structured_input_signature[1].items()
        value = tf.constant(values, spec.dtype)
        return {name: each.numpy() for name, each in function(**{name: value}).items()}

    return ask


def waveform(seconds=0.5, rate=RATE, seed=0):
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (300 + 900 * t) * t) * (1 + np.sin(9 * t)) / 4
    return (tone + random.normal(0, 0.01, len(t))).astype("float32")


def check_same(answers, expected):
    for name in ("transcripts", "word_times", "errors"):
        assert answers[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(answers["scores"], expected["scores"], atol=1e-2)


def take(answers, places):
    return {name: value[places] for name, value in answers.items()}


GOOD = [wav(waveform(seed=seed)) for seed in range(3)]
ALAW = wav(waveform(), subtype="ALAW")
BAD_FILES = {
    "empty": (b"", "is no WAV file"),
    "text": (b"RIFF of another kind", "is no WAV file"),
    "cut header": (GOOD[0][:30], "is no WAV file"),
    "no samples": (GOOD[0][:44], "has no samples"),
    "compressed": (ALAW, "is compressed"),
    "long": (wav(np.zeros(RATE * (MAX_SECONDS + 1))), "longer than 60 seconds"),
    "very long": (wav(np.zeros(RATE * 600)), "longer than 60 seconds"),
    "slow": (wav(waveform(), 1_000), "the sampling rate must be from 4000"),
    "many channels": (wav(np.zeros((100, 40))), "1 to 32 channels"),
}


@pytest.mark.parametrize("signature", ["serving_default", "greedy"])
@pytest.mark.parametrize(("file", "error"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_costs_its_own_answer_only(signature, file, error, ask):
    answers = ask(signature, [GOOD[0], file, *GOOD[1:]])
    assert error in answers["errors"][1].decode()
    for name, value in answers.items():
        if name != "errors":
            assert not value[1], name
    expected = ask(signature, GOOD)
    assert expected["errors"].tolist() == [b""] * 3
    check_same(take(answers, [0, 2, 3]), expected)


@pytest.mark.parametrize("signature", ["serving_default", "greedy"])
def test_a_short_or_silent_recording_has_an_answer(signature, ask):
    files = [wav(np.zeros(1)), wav(np.ones(1)), wav(np.zeros(RATE)), wav(np.ones(300))]
    answers = ask(signature, files)
    assert answers["errors"].tolist() == [b""] * 4
    assert np.isfinite(answers["scores"]).all()
    assert answers["transcripts"].tolist()[::2] == [b"", b""]


def test_silence_has_no_words(ask):
    """The network with random weights writes some."""
    samples = np.stack([waveform(), -waveform()])
    samples *= QUIETEST / np.abs(samples).max()
    loud, quiet = ask("tensors", 1.5 * samples), ask("tensors", 0.9 * samples)
    assert (loud["transcripts"] != b"").all()
    for name in ("transcripts", "word_times"):
        assert quiet[name].tolist() == [b"", b""]


def test_samples_that_are_no_numbers_are_refused_or_ignored(ask):
    samples = waveform()
    samples[100] = np.nan
    answers = ask("serving_default", [wav(samples, subtype="FLOAT"), GOOD[0]])
    assert np.isfinite(answers["scores"]).all()
    check_same(take(answers, [1]), ask("serving_default", GOOD[:1]))


@pytest.mark.parametrize("rate", [11_025, 16_000, 44_100, 48_000])
def test_any_rate_and_number_of_channels_has_the_answer_of_the_original(rate, ask):
    """The sound has no frequency above those that all rates have."""
    samples = waveform()
    stereo = np.repeat(audio.change_rate(samples, RATE, rate)[:, None], 2, axis=1)
    subtypes = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    files = [wav(stereo.clip(-1, 1), rate, subtype) for subtype in subtypes]
    answers = ask("tensors", samples[None])
    assert ask("serving_default", files)["transcripts"].tolist() == [
        answers["transcripts"][0]
    ] * len(files)


def test_a_bad_row_costs_its_own_answer_only(ask):
    good = np.stack([waveform(seed=seed) for seed in range(2)])
    for value in (np.nan, np.inf, 1.5, -3e38):
        bad = good[0].copy()
        bad[7] = value
        answers = ask("tensors", [good[0], bad, good[1]])
        assert b"from -1 to 1" in answers["errors"][1]
        assert not answers["transcripts"][1]
        assert answers["scores"][1] == 0
        check_same(take(answers, [0, 2]), ask("tensors", good))


WRONG_SHAPES = {
    "serving_default": ["text", [["text"]], [[]] * 2, [b""] * (MAX_INPUTS + 1)],
    "greedy": ["text", [["text"]], [b""] * (MAX_INPUTS + 1)],
    "tensors": [
        0.5,
        [0.5],
        [[[0.5]]],
        [[], []],
        np.zeros((MAX_INPUTS + 1, 80)),
        np.zeros((1, MAX_SECONDS * RATE + 1)),
    ],
}


@pytest.mark.parametrize("signature", WRONG_SHAPES)
def test_wrong_shapes_are_refused_with_a_sentence(signature, ask):
    for value in WRONG_SHAPES[signature]:
        with pytest.raises(tf.errors.InvalidArgumentError, match="must have the shape"):
            ask(signature, value)


@pytest.mark.parametrize("signature", WRONG_SHAPES)
def test_no_inputs_have_no_answers(signature, ask):
    for shape in ([0], [0, 3]):
        value = np.zeros(shape, "float32" if signature == "tensors" else object)
        answers = ask(signature, value)
        assert [len(each) for each in answers.values()] == [0] * 4


def test_predictors_raise_errors(saved_model):
    with pytest.raises(BadInput, match="input 2: this is no WAV file"):
        load_model(str(saved_model))([GOOD[0], b"text"])


@pytest.mark.parametrize(
    ("pieces", "frames", "text", "lines"),
    [
        ([], [], "", []),
        (["a", "b"], [1, 3], "ab", [(0.04, 0.16, "ab")]),
        (["a", " ", "b"], [1, 2, 5], "a b", [(0.04, 0.08, "a"), (0.2, 0.24, "b")]),
        ([" ", "a", " ", " "], [0, 1, 2, 3], "a", [(0.04, 0.08, "a")]),
        ([" "], [4], "", []),
    ],
)
def test_letters_are_joined_to_words_with_their_times(pieces, frames, text, lines):
    token_ids = tf.constant([TOKENS.index(piece) for piece in pieces], tf.int32)
    joined, times = transcriber()._join(token_ids, tf.constant(frames, tf.int32))
    assert joined.numpy().decode() == text
    assert word_times(times.numpy()) == lines
