"""Searches: encoded recordings to transcripts, by CTC or with the attention decoder."""

import functools

import tensorflow as tf

from apps.common.search import beam_search as attention_beam_search
from apps.speech_recognition import ctc

START = END = 0  # For the attention decoder, which writes no blanks.


def greedy_search(network, encoded, num_samples):
    """Takes the most probable token at each step.

    Args:
        network: A `Recognizer`.
        encoded: Its encoded frames, `(batch, frames, size)`.
        num_samples: Number of samples of each recording, int32 `(batch,)`.

    Returns:
        `ctc.Transcripts`.
    """
    if network.decoder:
        return _attention_search(network, encoded, num_samples, beam_size=1)
    return ctc.greedy_search(*_log_probs(network, encoded, num_samples))


def beam_search(network, encoded, num_samples, config, word_list=None):
    """Returns the best of several hypotheses.

    Args:
        network: As for `greedy_search`.
        encoded: As for `greedy_search`.
        num_samples: As for `greedy_search`.
        config: Gives the settings of the search.
        word_list: A `ctc.WordList`, or None. Only CTC has them.

    Returns:
        `ctc.Transcripts`.
    """
    if network.decoder:
        beam_size = attention_beam_size(network, config)
        return _attention_search(network, encoded, num_samples, beam_size)
    return ctc.prefix_beam_search(
        *_log_probs(network, encoded, num_samples),
        config.beam_size,
        word_list,
        config.language_weight,
        config.word_bonus,
    )


def attention_beam_size(network, config):
    """Returns the number of hypotheses: no more than there are tokens."""
    return min(config.beam_size, network.arguments["num_tokens"])


def _log_probs(network, encoded, num_samples):
    log_probs = tf.nn.log_softmax(network.classify(encoded))
    return log_probs, network.num_frames(num_samples)


def _attention_search(network, encoded, num_samples, beam_size):
    """Searches with the attention decoder.

    The frame of a token is the one that has most of the attention.
    """
    memory = network.remember(encoded, num_samples)
    found = attention_beam_search(
        functools.partial(network.decoder.step, memory=memory),
        network.decoder.initial_state(memory),
        START,
        END,
        max_steps=network.num_frames(num_samples) + 1,
        beam_size=beam_size,
        alpha=1.0,
    )
    lengths = found.lengths[:, 0]
    most = tf.reduce_max(tf.concat([lengths, [0]], 0))
    is_token = tf.sequence_mask(lengths, most)
    frames = tf.argmax(found.trace[:, 0, :most], axis=-1, output_type=tf.int32)
    return ctc.Transcripts(
        found.token_ids[:, 0, :most],
        tf.where(is_token, frames, 0),
        lengths,
        found.scores[:, 0],
    )
