"""The exported functions: audio to transcripts."""

import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from apps.common import audio, limits, runs
from apps.common.predictors import Predictor, load_predictor
from apps.speech_recognition import ctc, search, words
from apps.speech_recognition.config import MAX_SECONDS, Config
from apps.speech_recognition.model import Recognizer
from apps.speech_recognition.tokenizer import Tokenizer, load_tokenizer

# The amplitude below which a recording is silence, and has no words: -80 dB.
QUIETEST = 1e-4
# What a request may contain, for the card.
LIMITS = {"max_inputs": limits.MAX_INPUTS, "max_seconds": MAX_SECONDS}


class Transcriber:
    """A trained network with its exported functions.

    Args:
        network: A trained `Recognizer`.
        tokenizer: Its `Tokenizer`.
        config: Gives the search and the sampling rate.
        word_list: A `ctc.WordList`, or None.

    Attributes:
        signatures: The exported functions by name: `serving_default` (beam search),
            `greedy` and `tensors`.
        variables: The variables that they use.
    """

    def __init__(
        self,
        network: Recognizer,
        tokenizer: Tokenizer,
        config: Config,
        word_list: ctc.WordList | None = None,
    ):
        self.network = network
        self.tokenizer = tokenizer
        self.config = config
        self.word_list = word_list
        self.variables = network.variables
        self.pieces = tf.constant(tokenizer.tokens)
        self.greedy_search = functools.partial(search.greedy_search, network)
        self.beam_search = functools.partial(
            search.beam_search, network, config=config, word_list=word_list
        )
        encoded = tf.TensorSpec([None], tf.string, name="audio_bytes")
        samples = tf.TensorSpec([None, None], name="samples")
        self.signatures = {
            "serving_default": tf.function(self.transcribe, input_signature=[encoded]),
            "greedy": tf.function(self.transcribe_greedily, input_signature=[encoded]),
            "tensors": tf.function(self.transcribe_samples, input_signature=[samples]),
        }

    def transcribe(self, audio_bytes):
        """Transcribes WAV files, `(n,)`, by beam search.

        Returns:
            `transcripts`, strings `(n,)`; `scores`, their log-probabilities; and
            `word_times`, with a line for each word: its start and its end in seconds,
            and the word. `errors`, strings `(n,)`.
        """
        return self._transcribe(audio_bytes, self.beam_search)

    def transcribe_greedily(self, audio_bytes):
        """Transcribes without a search; returns the same as `transcribe`."""
        return self._transcribe(audio_bytes, self.greedy_search)

    def transcribe_samples(self, samples):
        """Transcribes waveforms, `(n, samples)`, at the sampling rate of the model.

        Returns:
            The same as `transcribe`.
        """
        most = round(MAX_SECONDS * self.config.sampling_rate)
        samples = limits.check_shape(
            samples, "samples", [None, None], [limits.MAX_INPUTS, most]
        )
        # Written so that NaN fails too.
        is_good = tf.reduce_all((samples >= -1) & (samples <= 1), axis=1)
        errors = limits.first_error((~is_good, "the samples must be from -1 to 1"))
        samples = tf.where(is_good[:, None], samples, 0)
        outputs = tf.map_fn(
            lambda waveform: self._answer(waveform, self.beam_search),
            samples,
            fn_output_signature=OUTPUTS,
            parallel_iterations=1,
        )
        return limits.answer(outputs, errors)

    def _transcribe(self, audio_bytes, search):
        """Decodes and transcribes one recording after the other, to bound memory."""
        audio_bytes = limits.check_shape(
            audio_bytes, "audio_bytes", [None], [limits.MAX_INPUTS]
        )

        def transcribe(wav):
            samples, rate, error = audio.decode_wav(wav, MAX_SECONDS)
            samples = audio.resample(samples, rate, self.config.sampling_rate)
            return self._answer(samples, search), error

        outputs, errors = tf.map_fn(
            transcribe,
            audio_bytes,
            fn_output_signature=(OUTPUTS, tf.TensorSpec([], tf.string)),
            parallel_iterations=1,
        )
        return limits.answer(outputs, errors)

    def _answer(self, samples, search):
        """Returns the outputs for one waveform, `(samples,)`."""
        num_samples = tf.shape(samples)[0][None]
        found = search(self.network([samples[None], num_samples]), num_samples)
        text, word_times = self._join(found.token_ids[0], found.frames[0])
        # A model that has never heard silence writes anything there.
        is_heard = tf.reduce_max(tf.abs(samples)) >= QUIETEST
        return {
            "transcripts": tf.where(is_heard, text, ""),
            "scores": found.scores[0],
            "word_times": tf.where(is_heard, word_times, ""),
        }

    def _join(self, token_ids, frames):
        """Returns the text of some tokens, and when its words are said.

        Args:
            token_ids: int32 `(tokens,)`.
            frames: The frame of each token, int32 `(tokens,)`.
        """
        pieces = tf.gather(self.pieces, token_ids)
        words = tf.strings.split(tf.strings.reduce_join(pieces)[None])[0]
        begins = tf.strings.substr(tf.strings.join([pieces, " "]), 0, 1) == " "
        number = tf.cumsum(tf.cast(begins & (pieces != ""), tf.int32))
        is_letter = tf.strings.strip(pieces) != ""
        _, word = tf.unique(tf.boolean_mask(number, is_letter))
        seconds = self.network.subsampling / 100 * tf.cast(frames, tf.float32)
        seconds = tf.boolean_mask(seconds, is_letter)
        starts = tf.math.segment_min(seconds, word)
        ends = tf.math.segment_max(seconds, word) + self.network.subsampling / 100
        lines = tf.strings.join(
            [
                tf.strings.as_string(starts, precision=2),
                tf.strings.as_string(ends, precision=2),
                words,
            ],
            " ",
        )
        join = tf.strings.reduce_join
        return join(words, separator=" "), join(lines, separator="\n")


OUTPUTS = {
    "transcripts": tf.TensorSpec([], tf.string),
    "scores": tf.TensorSpec([]),
    "word_times": tf.TensorSpec([], tf.string),
}


def word_times(answer):
    """Returns the words of one of the `word_times`: start, end and word of each."""
    rows = (line.split(" ", 2) for line in answer.decode().splitlines())
    return [(float(start), float(end), word) for start, end, word in rows]


def load_run(run: Path) -> Transcriber:
    """Returns the best model of a run as a `Transcriber`."""
    word_list = None
    if (run / words.FILE).exists():
        with np.load(run / words.FILE) as file:
            word_list = ctc.WordList(*(file[name] for name in ctc.WordList._fields))
    return Transcriber(
        keras.saving.load_model(run / "model.keras", compile=False),
        load_tokenizer(run),
        runs.load_config(Config, run),
        word_list,
    )


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(
        where, "speech_recognition", lambda run: load_run(run).signatures, signature
    )
