"""Decodes the outputs of a CTC network, inside the graph.

Token 0 is the blank.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

BLANK = 0
NEVER = -1e30  # The logarithm of a probability of 0.
HASH_FACTOR = 1_000_003


class Transcripts(NamedTuple):
    """The most probable token ids of each utterance.

    Attributes:
        token_ids: int32 `(batch, tokens)`, padded with `BLANK`.
        frames: The frame at which each token most probably begins, int32
            `(batch, tokens)`.
        lengths: Number of tokens, int32 `(batch,)`.
        scores: Log-probabilities, float32 `(batch,)`.
    """

    token_ids: tf.Tensor
    frames: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor


class WordList(NamedTuple):
    """The words that a search may answer, as a tree of their tokens.

    Attributes:
        next_node: The node after each token, int32 `(nodes, tokens)`; -1 where no word
            goes on so. Node 0 is the start of a word.
        word: The number of the word that ends at each node, int32 `(nodes,)`, or -1.
        log_probabilities: Of each word after each other one, float32
            `(words + 1, words)`; the last row is for the first word of an utterance. A
            single row if the word before does not matter.
    """

    next_node: np.ndarray
    word: np.ndarray
    log_probabilities: np.ndarray


def make_word_list(words, space, num_tokens, log_probabilities=None):
    """Returns the `WordList` of some words.

    Args:
        words: The token ids of each word.
        space: The token id between words; None if a text has one word only.
        num_tokens: Number of different token ids, the blank included.
        log_probabilities: As in `WordList`. Defaults to 0: all words are alike.
    """
    nodes, ends = [{}], [-1]
    for number, word in enumerate(words):
        node = 0
        for token in word:
            if token not in nodes[node]:
                nodes[node][token] = len(nodes)
                nodes.append({})
                ends.append(-1)
            node = nodes[node][token]
        ends[node] = number
    next_node = np.full((len(nodes), num_tokens), -1, "int32")
    for node, following in enumerate(nodes):
        for token, other in following.items():
            next_node[node, token] = other
        if ends[node] >= 0 and space is not None:
            next_node[node, space] = 0
    if log_probabilities is None:
        log_probabilities = np.zeros((1, len(words)))
    return WordList(
        next_node, np.array(ends, "int32"), np.asarray(log_probabilities, "float32")
    )


def greedy_search(log_probs, lengths):
    """Takes the most probable token of each frame.

    Args:
        log_probs: Log-probabilities, float32 `(batch, frames, tokens)`.
        lengths: Number of frames of each utterance, int32 `(batch,)`.

    Returns:
        `Transcripts`. The score is that of the path, which is one of many that have the
        same tokens.
    """
    num_frames = tf.shape(log_probs)[1]
    is_frame = tf.sequence_mask(lengths, num_frames)
    best = tf.where(is_frame, tf.argmax(log_probs, -1, tf.int32), BLANK)
    before = tf.pad(best[:, :-1], [[0, 0], [1, 0]])
    is_token = (best != BLANK) & (best != before)
    counts = tf.reduce_sum(tf.cast(is_token, tf.int32), axis=1)
    # The frames of the tokens come first, in their order.
    order = tf.argsort(tf.where(is_token, 0, 1), axis=1, stable=True)
    order = order[:, : tf.reduce_max(tf.concat([counts, [0]], 0))]
    is_kept = tf.sequence_mask(counts, tf.shape(order)[1])
    tokens = tf.gather(best, order, batch_dims=1)
    scores = tf.where(is_frame, tf.reduce_max(log_probs, axis=-1), 0)
    return Transcripts(
        tf.where(is_kept, tokens, BLANK),
        tf.where(is_kept, order, 0),
        counts,
        tf.reduce_sum(scores, axis=1),
    )


class _Beam(NamedTuple):
    """The prefixes that are kept, each tensor `(batch, beams, …)`."""

    blank: tf.Tensor  # Log-probability of the paths that end with a blank,
    token: tf.Tensor  # and of those that end with the last token.
    last: tf.Tensor  # The last token, BLANK if there is none.
    hash: tf.Tensor  # Of the prefix, int64,
    parent_hash: tf.Tensor  # and of the prefix without its last token.
    bonus: tf.Tensor  # The score of the words.
    node: tf.Tensor  # The place in the word list.
    word: tf.Tensor  # The last complete word.
    peak: tf.Tensor  # The largest log-probability with which the last token came,
    frame: tf.Tensor  # and the frame at which it did.
    length: tf.Tensor
    token_ids: tf.Tensor  # (batch, beams, frames)
    frames: tf.Tensor  # Of all tokens but the last.


def prefix_beam_search(
    log_probs,
    lengths,
    beam_size,
    word_list=None,
    language_weight=0.0,
    word_bonus=0.0,
):
    """Returns the most probable token ids, summed over all paths that have them.

    Args:
        log_probs: Log-probabilities, float32 `(batch, frames, tokens)`.
        lengths: Number of frames of each utterance, int32 `(batch,)`.
        beam_size: Number of prefixes that are kept at each frame.
        word_list: A `WordList`, to which the answers are restricted. Defaults to none.
        language_weight: Weight of the words' log-probabilities. Defaults to 0.
        word_bonus: Added to the score for each word. Defaults to 0.

    Returns:
        `Transcripts`. The scores contain those of the words.

    Reference:
        [Hannun et al., 2014](https://arxiv.org/abs/1408.2873), algorithm 1
    """
    shape = tf.shape(log_probs)
    batch, num_frames, num_tokens = shape[0], shape[1], log_probs.shape[-1]
    if word_list is None:
        # One node, from which all tokens lead back to it, and where no word ends.
        word_list = WordList(
            np.zeros((1, num_tokens), "int32"),
            np.full(1, -1, "int32"),
            np.zeros((1, 1), "float32"),
        )
    next_node, ends = tf.constant(word_list.next_node), tf.constant(word_list.word)
    language = language_weight * tf.constant(word_list.log_probabilities) + word_bonus
    last_row = len(word_list.log_probabilities) - 1

    def fill(value, dtype=tf.int32):
        return tf.fill([batch, beam_size], tf.cast(value, dtype))

    is_first = tf.range(beam_size)[None] == tf.zeros([batch, 1], tf.int32)
    empty = tf.zeros([batch, beam_size, num_frames], tf.int32)
    beam = _Beam(
        blank=tf.where(is_first, 0.0, NEVER),
        token=fill(NEVER, tf.float32),
        last=fill(BLANK),
        hash=fill(1, tf.int64),
        parent_hash=fill(0, tf.int64),
        bonus=fill(0, tf.float32),
        node=fill(0),
        word=fill(last_row),
        peak=fill(NEVER, tf.float32),
        frame=fill(0),
        length=fill(0),
        token_ids=empty,
        frames=empty,
    )

    def with_last_frame(beam):
        """Returns the frames of all tokens, the last one included."""
        is_last = tf.one_hot(beam.length - 1, num_frames, True, False)
        return tf.where(is_last, beam.frame[..., None], beam.frames)

    def end_word(beam):
        """Returns the words that end at the nodes, -1 for none, and their scores."""
        word = tf.gather(ends, beam.node)
        before = tf.minimum(beam.word, last_row)
        pairs = tf.stack([before, tf.maximum(word, 0)], axis=-1)
        return word, tf.gather_nd(language, pairs)

    def step(frame, beam):
        now = log_probs[:, frame]  # (batch, tokens)
        total = _add(beam.blank, beam.token)
        # A prefix stays as it is.
        of_last = tf.gather(now, beam.last, batch_dims=1)
        stay_blank = total + now[:, None, BLANK]
        stay_token = tf.where(beam.length > 0, beam.token + of_last, NEVER)
        # Or a token follows; the same token only if a blank was between.
        one_hot = tf.one_hot(beam.last, num_tokens, True, False)
        before = tf.where(one_hot, beam.blank[..., None], total[..., None])
        extended = before + now[:, None]  # (batch, beams, tokens)
        following = tf.gather(next_node, beam.node)
        is_blank = tf.range(num_tokens) == BLANK
        extended = tf.where(is_blank | (following < 0), NEVER, extended)
        # What one prefix becomes with a token may be another prefix of the beam.
        is_child = beam.hash[:, :, None] == beam.parent_hash[:, None, :]
        is_child &= (beam.length > 0)[:, None, :]
        joined = tf.gather(extended, beam.last, axis=2, batch_dims=1)
        joined = tf.where(is_child, joined, NEVER)  # (batch, parents, children)
        parent = tf.argmax(joined, axis=1, output_type=tf.int32)
        joined = tf.reduce_max(joined, axis=1)
        stay_token = _add(stay_token, joined)
        # The frames of the most probable way to the prefix are kept.
        is_better = joined > beam.peak
        frames = with_last_frame(beam)
        frames_of_parent = tf.gather(frames, parent, batch_dims=1)
        beam = beam._replace(
            peak=tf.maximum(joined, beam.peak),
            frame=tf.where(is_better, frame, beam.frame),
            frames=tf.where(is_better[..., None], frames_of_parent, beam.frames),
        )
        is_joined = tf.reduce_any(
            is_child[..., None] & one_hot[:, None], axis=2
        )  # (batch, beams, tokens)
        extended = tf.where(is_joined, NEVER, extended)
        # A word ends where the next node is the start.
        word, gained = end_word(beam)
        is_word = (following == 0) & (word >= 0)[..., None]
        bonus = beam.bonus[..., None] + tf.where(is_word, gained[..., None], 0)

        scores = tf.concat(
            [
                _add(stay_blank, stay_token) + beam.bonus,
                tf.reshape(extended + bonus, [batch, beam_size * num_tokens]),
            ],
            axis=1,
        )
        chosen = tf.math.top_k(scores, beam_size).indices
        is_new = chosen >= beam_size
        source = tf.where(is_new, (chosen - beam_size) // num_tokens, chosen)
        token = tf.where(is_new, (chosen - beam_size) % num_tokens, BLANK)
        old = _Beam(*(tf.gather(each, source, batch_dims=1) for each in beam))

        def take(values):  # Of an extension.
            values = tf.gather(values, source, batch_dims=1)
            return tf.gather(values, token, batch_dims=2)

        place = tf.one_hot(old.length, num_frames, True, False) & is_new[..., None]
        return _Beam(
            blank=tf.where(is_new, NEVER, tf.gather(stay_blank, source, batch_dims=1)),
            token=tf.where(
                is_new, take(extended), tf.gather(stay_token, source, batch_dims=1)
            ),
            last=tf.where(is_new, token, old.last),
            hash=tf.where(
                is_new, old.hash * HASH_FACTOR + tf.cast(token, tf.int64), old.hash
            ),
            parent_hash=tf.where(is_new, old.hash, old.parent_hash),
            bonus=tf.where(is_new, take(bonus), old.bonus),
            node=tf.where(is_new, take(following), old.node),
            word=tf.where(
                is_new & take(is_word), tf.gather(word, source, batch_dims=1), old.word
            ),
            peak=tf.where(is_new, take(extended), old.peak),
            frame=tf.where(is_new, frame, old.frame),
            length=old.length + tf.cast(is_new, tf.int32),
            token_ids=tf.where(place, token[..., None], old.token_ids),
            frames=tf.where(
                is_new[..., None], tf.gather(frames, source, batch_dims=1), old.frames
            ),
        )

    def body(frame, beam):
        is_frame = frame < lengths

        def choose(new, old):
            mask = tf.reshape(is_frame, [-1] + [1] * (len(old.shape) - 1))
            return tf.where(mask, new, old)

        new = step(frame, beam)
        return frame + 1, _Beam(*map(choose, new, beam))

    _, beam = tf.while_loop(
        lambda frame, _: frame < num_frames, body, (tf.constant(0), beam)
    )
    scores = _add(beam.blank, beam.token) + beam.bonus
    word, gained = end_word(beam)
    # The last word must be complete.
    scores += tf.where(beam.node == 0, 0.0, tf.where(word >= 0, gained, NEVER))
    best = tf.argmax(scores, axis=1, output_type=tf.int32)[:, None]
    found = [
        tf.gather(each, best, batch_dims=1)[:, 0]
        for each in (beam.token_ids, with_last_frame(beam), beam.length, scores)
    ]
    longest = tf.reduce_max(tf.concat([found[2], [0]], 0))
    return Transcripts(found[0][:, :longest], found[1][:, :longest], *found[2:])


def _add(one, other):
    """Returns the logarithm of the sum of two probabilities, given theirs."""
    largest = tf.maximum(one, other)
    return largest + tf.math.log1p(tf.exp(tf.minimum(one, other) - largest))
