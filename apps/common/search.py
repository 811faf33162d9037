"""Finds the likeliest sequence that a decoder can write, inside the graph.

A decoder is any function `step(tokens, state)`. It takes the tokens written last, int32
`(batch, beams)`, and a structure of tensors `(batch, beams, …)`. It returns

- the log-probabilities of the next token, `(batch, beams, vocabulary)`,
- the state after that, structured and shaped like the one before,
- a trace: a tensor `(batch, beams, …)` to be kept of this step, such as where
  attention went.

What all beams share, such as an encoded source, the function holds itself.
"""

from typing import NamedTuple

import tensorflow as tf


class Hypotheses(NamedTuple):
    """What a search found, the best first.

    Attributes:
        tokens: int32 `(batch, beams, steps)`, filled up with the token of the end.
        lengths: Tokens before the end, int32 `(batch, beams)`.
        scores: Log-probabilities divided by `length_penalty`, `(batch, beams)`.
        trace: What the decoder traced, `(batch, beams, steps, …)`; of steps after the
            end it means nothing.
    """

    tokens: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor
    trace: tf.Tensor


def greedy_search(step, state, start, end, max_steps, exponent=0.0):
    """Takes the likeliest token at each step: `beam_search` with a beam of one."""
    return beam_search(step, state, start, end, max_steps, 1, exponent)


def beam_search(step, state, start, end, max_steps, beam_size, exponent=0.0):
    """Keeps the best few hypotheses at each step, until all of them have ended.

    Hypotheses that have ended keep their place as long as their score, the
    log-probability divided by `length_penalty`, is among the best.

    Args:
        step: The decoder, as described above.
        state: Its state before the first step, a structure of tensors `(batch, …)`.
        start: The token to begin with; it is no part of the results.
        end: The token that ends a sequence.
        max_steps: The most tokens of each sequence, its end included, int32
            `(batch,)`, at least 1. One that has not ended by then is returned as it is.
        beam_size: How many hypotheses to keep, at most as many as there are tokens.
        exponent: That of the length penalty. Defaults to 0, which ranks by the
            log-probability alone; 1 ranks about by its mean over the tokens.

    Returns:
        `Hypotheses`.

    Reference:
        [Wu et al., 2016](https://arxiv.org/abs/1609.08144), section 7
    """
    batch = tf.shape(max_steps)[0]
    # Of hypotheses that are alike only the first may go on.
    alone = tf.constant([0.0] + [-float("inf")] * (beam_size - 1))

    def advance(time, last, history, log_probs, lengths, ended, state, traces):
        next_log_probs, state, trace = step(last, state)
        # The best of all lie among the best of each.
        next_log_probs, next_tokens = tf.math.top_k(next_log_probs, beam_size)
        next_log_probs = tf.where(ended[..., None], alone, next_log_probs)
        next_tokens = tf.where(ended[..., None], end, next_tokens)
        log_probs = log_probs[..., None] + next_log_probs
        lengths += tf.cast(~ended, tf.int32)
        scores = log_probs / length_penalty(lengths, exponent)[..., None]
        _, best = tf.math.top_k(_joined(scores), beam_size)
        slots = best // beam_size

        def survivors(values):
            return tf.gather(values, slots, batch_dims=1)

        def chosen(values):
            return tf.gather(_joined(values), best, batch_dims=1)

        last, lengths = chosen(next_tokens), survivors(lengths)
        entry = tf.stack([last, slots], -1)[:, :, None]
        return (
            time + 1,
            last,
            tf.concat([survivors(history), entry], 2),
            chosen(log_probs),
            lengths,
            survivors(ended) | (last == end) | (lengths >= max_steps[:, None]),
            tf.nest.map_structure(survivors, state),
            traces.write(time, trace),
        )

    begin = (
        tf.constant(0),
        tf.fill((batch, beam_size), start),
        tf.zeros((batch, beam_size, 0, 2), tf.int32),  # Tokens, and whose they were.
        tf.tile(alone[None], (batch, 1)),
        tf.zeros((batch, beam_size), tf.int32),
        tf.zeros((batch, beam_size), tf.bool),
        tf.nest.map_structure(lambda s: tf.repeat(s[:, None], beam_size, 1), state),
        tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False),
    )
    shapes = tf.nest.map_structure(lambda value: getattr(value, "shape", None), begin)
    _, _, history, log_probs, lengths, _, _, traces = tf.while_loop(
        lambda *values: ~tf.reduce_all(values[5]),
        advance,
        begin,
        (*shapes[:2], tf.TensorShape((None, beam_size, None, 2)), *shapes[3:]),
    )
    tokens, slots = tf.unstack(history, axis=-1)
    return Hypotheses(
        tokens,
        tf.reduce_sum(tf.cast(tokens != end, tf.int32), -1),
        log_probs / length_penalty(lengths, exponent),
        _traced(traces.stack(), slots),
    )


def length_penalty(lengths, exponent):
    """Returns what log-probabilities of sequences are divided by, `((5 + n) / 6)ᵃ`."""
    return ((5 + tf.cast(lengths, tf.float32)) / 6) ** exponent


def _joined(values):
    """Returns `(batch, beams, each)` as `(batch, beams * each)`."""
    return tf.reshape(values, (-1, values.shape[1] * values.shape[2]))


def _traced(traces, slots):
    """Returns the traces along each hypothesis, `(batch, beams, steps, …)`.

    Args:
        traces: Those of all steps, `(steps, batch, beams, …)`.
        slots: Of which beam each hypothesis was at each step, `(batch, beams, steps)`.
    """
    steps, batch, beams = tf.unstack(tf.shape(traces)[:3], 3)
    traces = tf.reshape(traces, tf.concat([[-1], tf.shape(traces)[3:]], 0))
    before = tf.range(batch)[:, None, None] + batch * tf.range(steps)
    return tf.gather(traces, before * beams + slots)
