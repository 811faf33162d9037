import itertools

import numpy as np
import pytest
import tensorflow as tf

from apps.common import search

END = 1


class Tree:
    """A decoder whose every prefix has next tokens of its own.

    Prefixes are numbered: the empty one is 0, and the one that `token` prolongs
    `number` to is `number * vocabulary + token + 1`.
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
        """No token of the vocabulary, so that none can be taken for it."""
        return self.vocabulary

    def number(self, prefix):
        number = 0
        for token in prefix:
            number = number * self.vocabulary + token + 1
        return number

    def after(self, row, prefix):
        return self.log_probs[row, self.number(prefix)]

    def state(self):
        """The number, and beside it how many tokens there are, in a structure."""
        rows = tf.zeros(self.rows, tf.int32)
        return {"number": rows, "more": (tf.zeros((self.rows, 2)), [rows - 1])}

    def step(self, tokens, state):
        number = state["number"] * self.vocabulary + tokens + 1
        number = tf.where(tokens == self.start, 0, number)
        sums, (length,) = state["more"]
        sums += tf.stack([tf.cast(tokens, tf.float32), tf.ones_like(sums[..., 0])], -1)
        state = {"number": number, "more": (sums, [length + 1])}
        rows = tf.range(tf.shape(tokens)[0])[:, None] + tf.zeros_like(tokens)
        table = tf.constant(self.log_probs, tf.float32)
        trace = tf.cast(tf.stack([number, length + 1], -1), tf.float32)
        trace = tf.concat([trace, sums], -1)
        return tf.gather_nd(table, tf.stack([rows, number], -1)), state, trace

    def search(self, max_steps, beam_size, exponent=0.0):
        """Returns NumPy arrays; `max_steps` are repeated over the rows."""
        most = tf.constant(np.resize(max_steps, self.rows).astype("int32"))
        run = tf.function(
            lambda: search.beam_search(
                self.step, self.state(), self.start, END, most, beam_size, exponent
            )
        )
        return search.Hypotheses(*(value.numpy() for value in run()))


def penalty(length, exponent):
    return ((5 + length) / 6) ** exponent


def plain_beam_search(tree, row, max_steps, beam_size, exponent):
    """Hypotheses as tokens, their end included, and scores, the best first."""

    def score(hypothesis):
        tokens, log_prob = hypothesis
        return log_prob / penalty(len(tokens), exponent)

    def is_done(tokens):
        return tokens[-1:] == (END,) or len(tokens) >= max_steps

    beam = [((), 0.0)]
    while not all(is_done(tokens) for tokens, _ in beam):
        candidates = []
        for tokens, log_prob in beam:
            if is_done(tokens):
                candidates.append((tokens, log_prob))
                continue
            for token, more in enumerate(tree.after(row, tokens)):
                candidates.append(((*tokens, token), log_prob + more))
        beam = sorted(candidates, key=score, reverse=True)[:beam_size]
    return [(tokens, score((tokens, log_prob))) for tokens, log_prob in beam]


@pytest.mark.parametrize("exponent", [0, 0.6, 1.0, 2.5])
def test_a_beam_that_holds_everything_finds_the_best_of_all_sequences(exponent):
    # Of 40 tokens three are possible, so that 40 hypotheses are all there are.
    tree = Tree(40, 2, rows=5, seed=3, forbidden=range(3, 40))
    possible, most = range(3), 3
    sequences = [
        tokens
        for length in range(1, most + 1)
        for tokens in itertools.product(possible, repeat=length)
        if END not in tokens[:-1] and (tokens[-1] == END or length == most)
    ]
    assert len(sequences) == 1 + 2 + 4 * 3
    found = tree.search([most], 40, exponent)
    for row in range(5):
        scored = sorted(
            (
                sum(tree.after(row, tokens[:i])[t] for i, t in enumerate(tokens))
                / penalty(len(tokens), exponent),
                tokens,
            )
            for tokens in sequences
        )[::-1]
        scores = found.scores[row, : len(sequences)]
        np.testing.assert_allclose(scores, [score for score, _ in scored], rtol=1e-4)
        for mine, (_, tokens) in zip(found.tokens[row], scored, strict=False):
            assert tuple(mine[: len(tokens)]) == tokens


SEARCHES = [
    (1, (5, 4), 0.0),
    (1, (5, 4), 1.0),
    (2, (4, 4), 0.0),
    (3, (1, 5), 0.6),
    (4, (5, 3), 1.0),
    (4, (5, 5), 3.0),
]


@pytest.mark.parametrize(("beam_size", "max_steps", "exponent"), SEARCHES)
def test_it_finds_what_a_plain_beam_search_finds(beam_size, max_steps, exponent):
    tree = Tree(4, 5)
    found = tree.search(max_steps, beam_size, exponent)
    for row, most in enumerate(np.resize(max_steps, tree.rows)):
        expected = plain_beam_search(tree, row, most, beam_size, exponent)
        assert len(expected) == found.tokens.shape[1] == beam_size
        for k, (tokens, score) in enumerate(expected):
            length = len(tokens)
            assert tuple(found.tokens[row, k, :length]) == tokens
            assert (found.tokens[row, k, length:] == END).all()
            assert found.lengths[row, k] == length - (tokens[-1] == END)
            assert found.scores[row, k] == pytest.approx(score, abs=1e-5)
            # The state that the decoder had at each step was this hypothesis' own.
            for i in range(length):
                read = [tree.start, *tokens[:i]]
                mine = [tree.number(tokens[:i]), i, sum(read), i + 1]
                assert found.trace[row, k, i].tolist() == mine


def test_longer_sequences_win_as_the_exponent_grows():
    tree = Tree(4, 5)
    means = [tree.search([6], 4, e).lengths[:, 0].mean() for e in (0.0, 1.0, 4.0)]
    assert means == sorted(means)
    assert means[0] < means[-1] - 1


def argmax_loop(tree, row, most):
    tokens = []
    while len(tokens) < most and END not in tokens:
        tokens.append(int(tree.after(row, tokens).argmax()))
    return tokens


def test_a_beam_of_one_takes_the_likeliest_token_at_each_step():
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
    assert greedy.tokens.shape[1] == 1
    seen = set()
    for found in (greedy, tree.search(most, 1), tree.search(most, 1, 2.0)):
        for row in range(tree.rows):
            tokens = argmax_loop(tree, row, most[row])
            mine = list(found.tokens[row, 0])
            assert mine[: len(tokens)] == tokens
            assert set(mine[len(tokens) :]) <= {END}
            seen.add(len(tokens))
    assert len(seen) > 3


def test_what_never_ends_is_cut():
    tree = Tree(4, 5, forbidden=[END])
    found = tree.search([6, 2], 3)
    assert found.tokens.shape == (24, 3, 6)
    assert (found.lengths == np.resize([[6], [2]], (24, 1))).all()
    assert (found.tokens[::2] != END).all()
    assert (found.tokens[1::2, :, :2] != END).all()
    assert (found.tokens[1::2, :, 2:] == END).all()


def test_it_stops_when_all_have_ended():
    tree = Tree(4, 5, rows=2)
    tree.log_probs[:] = np.log(0.01)
    tree.log_probs[..., END] = np.log(0.97)
    found = tree.search([6], 2)
    assert found.tokens[:, 0].tolist() == [[END, END]] * 2
    assert found.lengths.tolist() == [[0, 1]] * 2
    assert tree.search([6], 1).tokens.shape == (2, 1, 1)


def test_the_penalty_is_that_of_the_paper():
    lengths = tf.constant([1, 7, 13])
    np.testing.assert_allclose(search.length_penalty(lengths, 0), [1, 1, 1])
    np.testing.assert_allclose(search.length_penalty(lengths, 1.0), [1, 2, 3])
    np.testing.assert_allclose(search.length_penalty(lengths, 0.5)[1], 2**0.5)


def test_it_is_saved_with_an_unknown_batch(tmp_path):
    random = np.random.default_rng(0).normal(size=(5, 5, 5)).astype("float32")
    log_probs = tf.nn.log_softmax(2 * random)

    def step(tokens, before):
        next_log_probs = tf.gather_nd(log_probs, tf.stack([before, tokens], -1))
        return next_log_probs, tokens, tf.cast(tokens, tf.float32)

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
        expected = find(*arguments)  # Without a graph.
        for function in (module.find, again):
            for name, value in function(*arguments).items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-5)
        # Each row is found alone as it is among others.
        for row in range(len(first)):
            alone = find(*(argument[row : row + 1] for argument in arguments))
            steps = alone["tokens"].shape[2]
            mine = expected["tokens"][row, :, :steps]
            np.testing.assert_array_equal(mine, alone["tokens"][0])
            np.testing.assert_allclose(expected["scores"][row], alone["scores"][0])
