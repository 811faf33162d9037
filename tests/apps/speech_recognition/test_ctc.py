import itertools

import numpy as np
import pytest
import tensorflow as tf

from apps.speech_recognition import ctc


def random_log_probs(batch, frames, tokens, seed=0):
    logits = 2 * np.random.default_rng(seed).normal(size=(batch, frames, tokens))
    return tf.nn.log_softmax(tf.constant(logits, tf.float32)).numpy()


def collapse(path):
    """Returns the tokens of a path, without repetitions and blanks."""
    return tuple(token for token, _ in itertools.groupby(path) if token)


def all_transcripts(log_probs):
    """Returns the log-probability of every transcript: the sum over all its paths."""
    found = {}
    frames, tokens = log_probs.shape
    for path in itertools.product(range(tokens), repeat=frames):
        score = sum(log_probs[t, token] for t, token in enumerate(path))
        tokens_of_path = collapse(path)
        found[tokens_of_path] = np.logaddexp(found.get(tokens_of_path, -np.inf), score)
    return found


def of_one(transcripts, i):
    """Returns the token ids, their frames and the score of one utterance."""
    length = int(transcripts.lengths[i])
    return (
        tuple(transcripts.token_ids[i, :length].numpy().tolist()),
        tuple(transcripts.frames[i, :length].numpy().tolist()),
        float(transcripts.scores[i]),
    )


def test_the_best_path_is_collapsed():
    paths = [[1, 1, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0], [3, 3, 3, 2, 1, 1]]
    log_probs = np.log(0.9 * np.eye(4)[paths] + 0.025).astype("float32")
    found = ctc.greedy_search(log_probs, tf.constant([6, 6, 4]))
    score = np.log(0.925)
    assert of_one(found, 0) == ((1, 1, 2), (0, 3, 4), pytest.approx(6 * score))
    assert of_one(found, 1) == ((), (), pytest.approx(6 * score))
    assert of_one(found, 2) == ((3, 2), (0, 3), pytest.approx(4 * score))
    assert found.token_ids.shape == (3, 3)
    assert not found.token_ids[1].numpy().any()


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_search_finds_the_most_probable_transcript(seed):
    log_probs = random_log_probs(3, 6, 3, seed)
    lengths = [6, 4, 5]
    search = tf.function(ctc.prefix_beam_search)
    found = search(log_probs, tf.constant(lengths), 64)
    for i, length in enumerate(lengths):
        everything = all_transcripts(log_probs[i, :length])
        tokens, frames, score = of_one(found, i)
        assert tokens == max(everything, key=everything.get)
        assert score == pytest.approx(everything[tokens], abs=1e-4)
        assert list(frames) == sorted(set(frames))
        assert all(frame < length for frame in frames)


def test_a_token_begins_where_it_is_most_probable():
    paths = [[0, 0, 1, 1, 0, 0, 2, 0, 2, 2], [3, 0, 0, 1, 0, 3, 3, 3, 0, 0]]
    log_probs = np.log(0.9 * np.eye(4)[paths] + 0.025).astype("float32")
    lengths = tf.constant([10, 10])
    greedy = ctc.greedy_search(log_probs, lengths)
    found = ctc.prefix_beam_search(log_probs, lengths, 8)
    np.testing.assert_array_equal(found.token_ids, greedy.token_ids)
    np.testing.assert_array_equal(found.frames, greedy.frames)


def narrow_search(log_probs, beam_size):
    """Searches as `prefix_beam_search` does, with dictionaries."""
    beam = {(): (0.0, -np.inf)}
    for now in log_probs:
        following = {}

        def add(prefix, blank, token, following=following):
            old = following.get(prefix, (-np.inf, -np.inf))
            new = np.logaddexp(old[0], blank), np.logaddexp(old[1], token)
            following[prefix] = new

        for prefix, (blank, token) in beam.items():
            total = np.logaddexp(blank, token)
            stay = token + now[prefix[-1]] if prefix else -np.inf
            add(prefix, total + now[0], stay)
            for number in range(1, len(now)):
                before = blank if prefix and number == prefix[-1] else total
                add((*prefix, number), -np.inf, before + now[number])
        ranked = sorted(following.items(), key=lambda item: -np.logaddexp(*item[1]))
        beam = dict(ranked[:beam_size])
    best = max(beam, key=lambda prefix: np.logaddexp(*beam[prefix]))
    return best, np.logaddexp(*beam[best])


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_a_narrow_search_agrees_with_a_plain_one(beam_size):
    log_probs = random_log_probs(4, 12, 5, seed=7)
    found = ctc.prefix_beam_search(log_probs, tf.fill([4], 12), beam_size)
    for i in range(4):
        tokens, score = narrow_search(log_probs[i], beam_size)
        assert of_one(found, i)[0] == tokens
        assert of_one(found, i)[2] == pytest.approx(score, abs=1e-4)


SPACE = 3
WORDS = [(1, 2), (2,), (1, 1)]


def split(tokens):
    """Returns the words of a transcript, or None if one is not in the list."""
    words = []
    if tokens:
        for is_space, group in itertools.groupby(tokens, lambda token: token == SPACE):
            group = tuple(group)
            if is_space and len(group) > 1:
                return None
            if not is_space:
                words.append(group)
        if tokens[0] == SPACE:
            return None
    return words if set(words) <= set(WORDS) else None


@pytest.mark.parametrize("seed", range(5))
def test_a_word_list_restricts_the_search(seed):
    log_probs = random_log_probs(1, 6, 4, seed)
    language = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), size=4))
    word_list = ctc.make_word_list(WORDS, SPACE, 4, language)
    found = ctc.prefix_beam_search(
        log_probs, tf.constant([6]), 400, word_list, language_weight=0.7, word_bonus=0.3
    )
    expected = {}
    for tokens, score in all_transcripts(log_probs[0]).items():
        words = split(tokens)
        if words is None:
            continue
        before = len(WORDS)
        for word in words:
            number = WORDS.index(word)
            score += 0.7 * language[before, number] + 0.3
            before = number
        expected[tokens] = score
    tokens, _, score = of_one(found, 0)
    assert tokens == max(expected, key=expected.get)
    assert score == pytest.approx(expected[tokens], abs=1e-4)


def test_no_utterances_and_no_frames():
    for batch, frames in ((0, 5), (2, 0)):
        log_probs, lengths = tf.zeros([batch, frames, 4]), tf.fill([batch], frames)
        for found in (
            ctc.greedy_search(log_probs, lengths),
            ctc.prefix_beam_search(log_probs, lengths, 3),
        ):
            assert found.token_ids.shape == (batch, 0)
            assert found.scores.numpy().tolist() == [0.0] * batch
