"""The attention decoder on its own; translation and speech test it in their models."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from apps.common.decoder import (
    AttentionDecoder,
    SmoothedCrossEntropy,
    TeacherForcing,
    make_embedding,
)


def make_decoder(attention="additive"):
    keras.utils.set_random_seed(0)
    return AttentionDecoder(
        make_embedding(12, 6),
        units=5,
        attention=attention,
        attention_units=4,
        embedding_dropout=0.0,
        dropout=0.0,
    )


@pytest.mark.parametrize("attention", ["additive", "multiplicative", "none"])
def test_only_values_inside_the_mask_are_read(attention):
    decoder = make_decoder(attention)
    random = np.random.default_rng(0)
    values = random.normal(size=(2, 7, 3)).astype("float32")
    token_ids = random.integers(1, 12, (2, 4))
    mask = np.arange(7) < np.array([[7], [4]])
    logits = decoder(token_ids, decoder.remember(values, mask))
    assert logits.shape == (2, 4, 12)
    alone = decoder(token_ids[1:], decoder.remember(values[1:, :4]))
    np.testing.assert_allclose(logits[1], alone[0], atol=1e-5)
    values[1, :4] += 1
    changed = decoder(token_ids, decoder.remember(values, mask))
    assert np.abs(changed[1] - logits[1]).max() > 1e-3
    np.testing.assert_allclose(changed[0], logits[0], atol=1e-6)


def test_the_summary_is_the_mean_of_the_values():
    decoder = make_decoder()
    values = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    summary = decoder.remember(values, mask).summary
    expected = [values[0].mean(axis=0), values[1, :2].mean(axis=0)]
    np.testing.assert_allclose(summary, expected, atol=1e-6)
    whole = decoder.remember(values).summary
    np.testing.assert_allclose(whole, values.mean(axis=1), atol=1e-6)


def test_the_teacher_forcing_rate_falls_linearly():
    decoder = SimpleNamespace(teacher_forcing_rate=keras.Variable(1.0))

    for last_rate, epochs, expected in (
        (0.6, 5, [1, 0.9, 0.8, 0.7, 0.6]),
        (0.0, 3, [1, 0.5, 0]),
        (0.5, 1, [1]),
    ):
        callback = TeacherForcing(last_rate, epochs)
        callback.set_model(SimpleNamespace(decoder=decoder))
        rates = []
        for epoch in range(epochs):
            callback.on_epoch_begin(epoch)
            rates.append(float(decoder.teacher_forcing_rate))
        np.testing.assert_allclose(rates, expected, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_all_tokens(smoothing):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 5, 7)).astype("float32")
    labels = random.integers(1, 7, (3, 5))
    weights = np.ones((3, 5), "float32")
    weights[0, 1:] = weights[1, 4:] = 0
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smoothed = (1 - smoothing) * np.eye(7)[labels] + smoothing / 7
    each = -(smoothed * log_probs).sum(-1)
    expected = (each * weights).sum() / weights.sum()
    loss = SmoothedCrossEntropy(label_smoothing=smoothing)
    assert float(loss(labels, logits, weights)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(labels, logits)) == pytest.approx(each.mean(), rel=1e-5)
    # Tokens of weight zero do not matter.
    logits[0, 1:] += 100
    labels[0, 1:] = 0
    assert float(loss(labels, logits, weights)) == pytest.approx(expected, rel=1e-5)
