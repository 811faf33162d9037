import functools

import numpy as np
import pytest
import tensorflow as tf

from apps.speech_recognition import ctc, edge, search
from apps.speech_recognition.config import Config
from apps.speech_recognition.export import device_functions
from tests.apps.speech_recognition.test_model import noise, tiny_model


@functools.cache
def attention_model():
    """Returns a model whose decoder writes a few tokens before it ends."""
    model = tiny_model(decoder="attention")
    random = np.random.default_rng(3)
    for weight in model.decoder.trainable_variables:
        weight.assign(random.normal(0, 0.8, weight.shape))
    return model


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_device_searches_with_attention_as_the_graph_does(beam_size):
    model, lengths = attention_model(), set()
    functions = device_functions(model, beam_size)

    def decode(**values):
        answers = functions["decode"](**{k: tf.constant(v) for k, v in values.items()})
        return {name: value.numpy() for name, value in answers.items()}

    for seed in range(6):
        samples = noise(1, 1_600 + 400 * seed, seed=seed)
        num_samples = tf.constant([samples.shape[1]])
        config = Config("", beam_size=beam_size)
        found = search.beam_search(model, model.encode(samples), num_samples, config)
        state = functions["encode"](tf.constant(samples))
        state = {name: value.numpy() for name, value in state.items()}
        token_ids, frames, score = edge.attention_search(state, decode, beam_size)
        assert token_ids.tolist() == found.token_ids[0].numpy().tolist()
        assert frames.tolist() == found.frames[0].numpy().tolist()
        assert score == pytest.approx(float(found.scores[0]), abs=1e-4)
        assert (token_ids != search.END).all()
        lengths.add(len(token_ids))
    assert len(lengths) > 2


def test_padding_does_not_change_a_search_with_attention():
    model = attention_model()
    lengths = tf.constant([4_000, 2_400, 1_600])
    samples = noise(3, 4_000)
    for row, length in zip(samples, lengths, strict=True):
        row[length:] = 0
    together = search.greedy_search(model, model([samples, lengths]), lengths)
    for i in range(3):
        one = samples[i : i + 1, : lengths[i]]
        alone = search.greedy_search(model, model.encode(one), lengths[i : i + 1])
        length = int(alone.lengths[0])
        assert length == int(together.lengths[i])
        for ours, theirs in zip(alone[:2], together[:2], strict=True):
            np.testing.assert_array_equal(ours[0], theirs[i, :length])


def test_no_more_hypotheses_than_tokens_are_kept():
    config = Config("", beam_size=99)
    assert search.attention_beam_size(attention_model(), config) == 5


def test_the_settings_reach_the_search_by_ctc(monkeypatch):
    calls = []
    monkeypatch.setattr(
        ctc, "prefix_beam_search", lambda *arguments: calls.append(arguments[2:])
    )
    model = tiny_model()
    config = Config("", beam_size=7, language_weight=0.3, word_bonus=-1.0)
    encoded = model.encode(noise(1, 1_600))
    search.beam_search(model, encoded, tf.constant([1_600]), config, "words")
    assert calls == [(7, "words", 0.3, -1.0)]
