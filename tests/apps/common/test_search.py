import itertools

import numpy as np
import pytest
import tensorflow as tf

from apps.common import search

END = 1


class Tree:
    """A decoder with random log-probabilities for every prefix.

    Prefixes are numbered: the empty one is 0. Prefix `number`, followed by `token_id`,
    is `number * vocabulary + token_id + 1`.
    """

    def __init__(self, vocabulary, depth, rows=24, seed=0, forbidden=()):
        self.vocabulary = vocabulary
        self.rows = rows
        size = sum(vocabulary**i for i in range(depth + 1))
        logits = 2 * np.random.default_rng(seed).normal(size=(rows, size, vocabulary))
        logits[..., list(forbidden)] = -np.inf
        exponentials = np.exp(logits)
        with np.errstate(divide="ignore"):
            self.log_probs = np.log(exponentials / exponentials.sum(-1, keepdims=True))

    @property
    def start(self):
        """The start token, which is not in the vocabulary."""
        return self.vocabulary

    def number(self, prefix):
        number = 0
        for token_id in prefix:
            number = number * self.vocabulary + token_id + 1
        return number

    def after(self, row, prefix):
        return self.log_probs[row, self.number(prefix)]

    def state(self):
        """Returns a nested state: the number, sums of token ids, and the length."""
        rows = tf.zeros(self.rows, tf.int32)
        return {"number": rows, "more": (tf.zeros((self.rows, 2)), [rows - 1])}

    def step(self, token_ids, state):
        number = state["number"] * self.vocabulary + token_ids + 1
        number = tf.where(token_ids == self.start, 0, number)
        sums, (length,) = state["more"]
        ones = tf.ones_like(sums[..., 0])
        sums += tf.stack([tf.cast(token_ids, tf.float32), ones], -1)
        state = {"number": number, "more": (sums, [length + 1])}
        rows = tf.range(tf.shape(token_ids)[0])[:, None] + tf.zeros_like(token_ids)
        table = tf.constant(self.log_probs, tf.float32)
        trace = tf.cast(tf.stack([number, length + 1], -1), tf.float32)
        trace = tf.concat([trace, sums], -1)
        return tf.gather_nd(table, tf.stack([rows, number], -1)), state, trace

    def search(self, max_steps, beam_size, alpha=0.0):
        """Returns the hypotheses as NumPy arrays; `max_steps` repeats over the rows."""
        most = tf.constant(np.resize(max_steps, self.rows).astype("int32"))
        run = tf.function(
            lambda: search.beam_search(
                self.step, self.state(), self.start, END, most, beam_size, alpha
            )
        )
        return search.Hypotheses(*(value.numpy() for value in run()))


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def plain_beam_search(tree, row, max_steps, beam_size, alpha):
    """Returns the token ids, end token included, and scores of hypotheses."""

    def score(hypothesis):
        token_ids, log_prob = hypothesis
        return log_prob / penalty(len(token_ids), alpha)

    def is_done(token_ids):
        return token_ids[-1:] == (END,) or len(token_ids) >= max_steps

    beam = [((), 0.0)]
    while not all(is_done(token_ids) for token_ids, _ in beam):
        candidates = []
        for token_ids, log_prob in beam:
            if is_done(token_ids):
                candidates.append((token_ids, log_prob))
                continue
            for token_id, more in enumerate(tree.after(row, token_ids)):
                candidates.append(((*token_ids, token_id), log_prob + more))
        beam = sorted(candidates, key=score, reverse=True)[:beam_size]
    return [(token_ids, score((token_ids, log_prob))) for token_ids, log_prob in beam]


@pytest.mark.parametrize("alpha", [0, 0.6, 1.0, 2.5])
def test_a_beam_of_all_sequences_finds_the_best_ones(alpha):
    # Three of 40 tokens are possible, so 40 beams hold all sequences.
    tree = Tree(40, 2, rows=5, seed=3, forbidden=range(3, 40))
    possible, most = range(3), 3
    sequences = [
        token_ids
        for length in range(1, most + 1)
        for token_ids in itertools.product(possible, repeat=length)
        if END not in token_ids[:-1] and (token_ids[-1] == END or length == most)
    ]
    assert len(sequences) == 1 + 2 + 4 * 3
    found = tree.search([most], 40, alpha)
    for row in range(5):
        scored = sorted(
            (
                sum(tree.after(row, token_ids[:i])[t] for i, t in enumerate(token_ids))
                / penalty(len(token_ids), alpha),
                token_ids,
            )
            for token_ids in sequences
        )[::-1]
        scores = found.scores[row, : len(sequences)]
        np.testing.assert_allclose(scores, [score for score, _ in scored], rtol=1e-4)
        for ours, (_, token_ids) in zip(found.token_ids[row], scored, strict=False):
            assert tuple(ours[: len(token_ids)]) == token_ids


SEARCHES = [
    (1, (5, 4), 0.0),
    (1, (5, 4), 1.0),
    (2, (4, 4), 0.0),
    (3, (1, 5), 0.6),
    (4, (5, 3), 1.0),
    (4, (5, 5), 3.0),
]


@pytest.mark.parametrize(("beam_size", "max_steps", "alpha"), SEARCHES)
def test_it_finds_what_a_plain_beam_search_finds(beam_size, max_steps, alpha):
    tree = Tree(4, 5)
    found = tree.search(max_steps, beam_size, alpha)
    for row, most in enumerate(np.resize(max_steps, tree.rows)):
        expected = plain_beam_search(tree, row, most, beam_size, alpha)
        assert len(expected) == found.token_ids.shape[1] == beam_size
        for k, (token_ids, score) in enumerate(expected):
            length = len(token_ids)
            assert tuple(found.token_ids[row, k, :length]) == token_ids
            assert (found.token_ids[row, k, length:] == END).all()
            assert found.lengths[row, k] == length - (token_ids[-1] == END)
            assert found.scores[row, k] == pytest.approx(score, abs=1e-5)
            # At each step the decoder had the state of this hypothesis.
            for i in range(length):
                inputs = [tree.start, *token_ids[:i]]
                expected_trace = [tree.number(token_ids[:i]), i, sum(inputs), i + 1]
                assert found.trace[row, k, i].tolist() == expected_trace


def test_a_larger_alpha_prefers_longer_sequences():
    tree = Tree(4, 5)
    means = [
        tree.search([6], 4, alpha).lengths[:, 0].mean() for alpha in (0.0, 1.0, 4.0)
    ]
    assert means == sorted(means)
    assert means[0] < means[-1] - 1


def argmax_loop(tree, row, most):
    token_ids = []
    while len(token_ids) < most and END not in token_ids:
        token_ids.append(int(tree.after(row, token_ids).argmax()))
    return token_ids


def test_a_single_beam_takes_the_most_probable_token():
    tree = Tree(4, 5)
    most = np.resize([6, 3], tree.rows)
    arguments = (
        tree.step,
        tree.state(),
        tree.start,
        END,
        tf.constant(most.astype("int32")),
    )
    greedy = search.greedy_search(*arguments)
    greedy = search.Hypotheses(*(value.numpy() for value in greedy))
    assert greedy.token_ids.shape[1] == 1
    seen = set()
    for found in (greedy, tree.search(most, 1), tree.search(most, 1, 2.0)):
        for row in range(tree.rows):
            token_ids = argmax_loop(tree, row, most[row])
            ours = list(found.token_ids[row, 0])
            assert ours[: len(token_ids)] == token_ids
            assert set(ours[len(token_ids) :]) <= {END}
            seen.add(len(token_ids))
    assert len(seen) > 3


def test_endless_sequences_are_cut():
    tree = Tree(4, 5, forbidden=[END])
    found = tree.search([6, 2], 3)
    assert found.token_ids.shape == (24, 3, 6)
    assert (found.lengths == np.resize([[6], [2]], (24, 1))).all()
    assert (found.token_ids[::2] != END).all()
    assert (found.token_ids[1::2, :, :2] != END).all()
    assert (found.token_ids[1::2, :, 2:] == END).all()


def test_the_search_stops_when_all_beams_have_ended():
    tree = Tree(4, 5, rows=2)
    tree.log_probs[:] = np.log(0.01)
    tree.log_probs[..., END] = np.log(0.97)
    found = tree.search([6], 2)
    assert found.token_ids[:, 0].tolist() == [[END, END]] * 2
    assert found.lengths.tolist() == [[0, 1]] * 2
    assert tree.search([6], 1).token_ids.shape == (2, 1, 1)


def test_the_length_penalty_is_that_of_the_paper():
    lengths = tf.constant([1, 7, 13])
    np.testing.assert_allclose(search.length_penalty(lengths, 0), [1, 1, 1])
    np.testing.assert_allclose(search.length_penalty(lengths, 1.0), [1, 2, 3])
    np.testing.assert_allclose(search.length_penalty(lengths, 0.5)[1], 2**0.5)


def test_a_saved_search_takes_any_batch(tmp_path):
    random = np.random.default_rng(0).normal(size=(5, 5, 5)).astype("float32")
    log_probs = tf.nn.log_softmax(2 * random)

    def step(token_ids, previous):
        next_log_probs = tf.gather_nd(log_probs, tf.stack([previous, token_ids], -1))
        return next_log_probs, token_ids, tf.cast(token_ids, tf.float32)

    def find(first, max_steps):
        found = search.beam_search(step, first, 0, END, max_steps, 3, 1.0)
        return found._asdict()

    some = tf.TensorSpec([None], tf.int32)
    module = tf.Module()
    module.find = tf.function(find, input_signature=[some, some])
    tf.saved_model.save(module, tmp_path)
    again = tf.saved_model.load(tmp_path).find
    for first, most in (([0], [4]), ([0, 2, 3, 4], [1, 7, 4, 7])):
        arguments = tf.constant(first), tf.constant(most)
        expected = find(*arguments)  # Eagerly.
        for function in (module.find, again):
            for name, value in function(*arguments).items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-5)
        # Each row has the same result alone.
        for row in range(len(first)):
            alone = find(*(argument[row : row + 1] for argument in arguments))
            steps = alone["token_ids"].shape[2]
            ours = expected["token_ids"][row, :, :steps]
            np.testing.assert_array_equal(ours, alone["token_ids"][0])
            np.testing.assert_allclose(expected["scores"][row], alone["scores"][0])
    # No rows have no hypotheses.
    nothing = tf.zeros([0], tf.int32)
    for function in (find, module.find, again):
        for name, value in function(nothing, nothing).items():
            assert value.shape[:2] == (0, 3), name
