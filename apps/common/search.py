"""Beam search over any decoder, inside the graph.

A decoder is a function `step(token_ids, state)`. It takes the last token id of each
hypothesis, int32 `(batch, beams)`, and the decoder's state, any structure of tensors
`(batch, beams, …)`. It returns

- the log-probabilities of the next token, `(batch, beams, vocabulary)`,
- the next state, with the same structure and shapes,
- a trace: a tensor `(batch, beams, …)` to record at this step, such as the attention
  weights.

The function itself holds what all beams share, such as the encoded source.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

Step = Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any, tf.Tensor]]


class Hypotheses(NamedTuple):
    """The hypotheses of a search, best first.

    Attributes:
        token_ids: int32 `(batch, beams, steps)`, padded with the end token.
        lengths: Number of tokens before the end token, int32 `(batch, beams)`.
        scores: Log-probabilities divided by `length_penalty`, `(batch, beams)`.
        trace: The traces of the decoder, `(batch, beams, steps, …)`; undefined at
            steps after the end token.
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor
    trace: tf.Tensor


def greedy_search(
    step: Step,
    state: Any,
    start_id: int,
    end_id: int,
    max_steps: tf.Tensor,
    alpha: float = 0.0,
) -> Hypotheses:
    """Takes the most probable token at each step: a beam search with one beam."""
    return beam_search(step, state, start_id, end_id, max_steps, 1, alpha)


def beam_search(
    step: Step,
    state: Any,
    start_id: int,
    end_id: int,
    max_steps: tf.Tensor,
    beam_size: int,
    alpha: float = 0.0,
) -> Hypotheses:
    """Returns the best hypotheses, searched until all beams have ended.

    A finished hypothesis stays in the beam as long as its score is among the best.

    Args:
        step: The decoder, see the module's docstring.
        state: Its initial state, a structure of tensors `(batch, …)`.
        start_id: The start token. The results do not contain it.
        end_id: The end token.
        max_steps: Maximum number of tokens of each sequence, end token included, int32
            `(batch,)`, at least 1. Longer sequences are cut there.
        beam_size: Number of hypotheses to keep, at most the size of the vocabulary.
        alpha: Exponent of the length penalty. Defaults to 0: no penalty. At 1, scores
            are close to the mean log-probability per token.

    Returns:
        The `Hypotheses`.

    Reference:
        [Wu et al., 2016](https://arxiv.org/abs/1609.08144), section 7
    """
    batch = tf.shape(max_steps)[0]
    # All beams start identical, so every one but the first scores −inf. A finished
    # hypothesis has a single continuation for the same reason.
    only_first = tf.constant([0.0] + [-float("inf")] * (beam_size - 1))

    def advance(time, last, history, log_probs, lengths, is_done, state, traces):
        next_log_probs, state, trace = step(last, state)
        # The overall top k are among each beam's top k.
        next_log_probs, next_ids = tf.math.top_k(next_log_probs, beam_size)
        next_log_probs = tf.where(is_done[..., None], only_first, next_log_probs)
        next_ids = tf.where(is_done[..., None], end_id, next_ids)
        log_probs = log_probs[..., None] + next_log_probs
        lengths += tf.cast(~is_done, tf.int32)
        scores = log_probs / length_penalty(lengths, alpha)[..., None]
        _, best = tf.math.top_k(_merge_beams(scores), beam_size)
        parents = best // beam_size

        def of_parents(values):
            return tf.gather(values, parents, batch_dims=1)

        def of_best(values):
            return tf.gather(_merge_beams(values), best, batch_dims=1)

        last, lengths = of_best(next_ids), of_parents(lengths)
        entry = tf.stack([last, parents], -1)[:, :, None]
        return (
            time + 1,
            last,
            tf.concat([of_parents(history), entry], 2),
            of_best(log_probs),
            lengths,
            of_parents(is_done) | (last == end_id) | (lengths >= max_steps[:, None]),
            tf.nest.map_structure(of_parents, state),
            traces.write(time, trace),
        )

    initial = (
        tf.constant(0),
        tf.fill((batch, beam_size), start_id),
        tf.zeros((batch, beam_size, 0, 2), tf.int32),  # Token ids and their parents.
        tf.tile(only_first[None], (batch, 1)),
        tf.zeros((batch, beam_size), tf.int32),
        tf.zeros((batch, beam_size), tf.bool),
        tf.nest.map_structure(lambda value: tf.stack([value] * beam_size, 1), state),
        tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False),
    )
    shapes = tf.nest.map_structure(lambda value: getattr(value, "shape", None), initial)
    # Without sequences there is one step too: a list of no traces has no shape.
    _, _, history, log_probs, lengths, _, _, traces = tf.while_loop(
        lambda time, *values: (time == 0) | ~tf.reduce_all(values[4]),
        advance,
        initial,
        (*shapes[:2], tf.TensorShape((None, beam_size, None, 2)), *shapes[3:]),
    )
    token_ids, parents = tf.unstack(history, axis=-1)
    return Hypotheses(
        token_ids,
        tf.reduce_sum(tf.cast(token_ids != end_id, tf.int32), -1),
        log_probs / length_penalty(lengths, alpha),
        _follow_parents(traces.stack(), parents),
    )


def length_penalty(lengths: tf.Tensor, alpha: float) -> tf.Tensor:
    """Returns the divisor of log-probabilities: `((5 + length) / 6) ** alpha`."""
    return ((5 + tf.cast(lengths, tf.float32)) / 6) ** alpha


def _merge_beams(values):
    """Reshapes `(batch, beams, candidates)` to `(batch, beams * candidates)`."""
    return tf.reshape(values, (-1, values.shape[1] * values.shape[2]))


def _follow_parents(traces, parents):
    """Returns the trace of each hypothesis, `(batch, beams, steps, …)`.

    Args:
        traces: The traces of all steps, `(steps, batch, beams, …)`.
        parents: The beam that each hypothesis came from, `(batch, beams, steps)`.
    """
    steps, batch, beams = tf.unstack(tf.shape(traces)[:3], 3)
    traces = tf.reshape(traces, tf.concat([[-1], tf.shape(traces)[3:]], 0))
    first = tf.range(batch)[:, None, None] + batch * tf.range(steps)
    return tf.gather(traces, first * beams + parents)
