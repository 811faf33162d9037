"""The attention decoder on its own; translation and speech test it in their models."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.decoder import (
    AttentionDecoder,
    SmoothedCrossEntropy,
    TeacherForcing,
    make_embedding,
)


def make_decoder(attention="additive", **options):
    keras.utils.set_random_seed(0)
    return AttentionDecoder(
        make_embedding(12, 6),
        units=5,
        attention=attention,
        attention_units=4,
        embedding_dropout=0.0,
        dropout=0.0,
        **options,
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


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none"])
def test_the_loss_may_be_reduced_otherwise(reduction):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 5, 7)).astype("float32")
    labels = random.integers(1, 7, (3, 5))
    weights = random.normal(size=(3, 5)).astype("float32")  # Some are negative.
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(log_probs, labels[..., None], -1)[..., 0] * weights
    expected = {"sum_over_batch_size": each.mean(), "sum": each.sum(), "none": each}
    loss = SmoothedCrossEntropy(label_smoothing=0.0, reduction=reduction)
    np.testing.assert_allclose(
        loss(labels, logits, weights), expected[reduction], rtol=1e-4, atol=1e-5
    )


# The gate and the penalty of captions


VALUES = np.random.default_rng(1).normal(size=(2, 6, 3)).astype("float32")
# The second sequence ends early.
TOKEN_IDS = np.array([[2, 5, 7, 4], [2, 9, 0, 0]])


@pytest.mark.parametrize("attention", ["additive", "none"])
def test_the_gate_scales_the_context(attention):
    decoder = make_decoder(attention, has_gate=True)
    memory = decoder.remember(VALUES)
    decoder(TOKEN_IDS, memory)
    kernel = decoder.gate.kernel
    kernel.assign(3 * np.random.default_rng(0).normal(size=kernel.shape))
    token_ids = np.array([[5, 8], [7, 9]])
    state = tf.nest.map_structure(
        lambda value: np.stack([value] * 2, 1), decoder.initial_state(memory)
    )
    readouts, after, weights = decoder.decode(decoder.embed(token_ids), state, memory)
    h = after.h.numpy()
    gate = 1 / (1 + np.exp(-(h @ kernel.numpy() + decoder.gate.bias.numpy())))
    assert np.ptp(gate) > 0.05
    context = weights.numpy() @ VALUES
    if attention == "none":
        context = np.repeat(VALUES.mean(axis=1, keepdims=True), 2, axis=1)
    read = np.concatenate([h, gate * context], -1)
    dense = decoder.readout
    expected = np.tanh(read @ dense.kernel.numpy() + dense.bias.numpy())
    np.testing.assert_allclose(readouts, expected, atol=1e-5)


def test_there_is_no_gate_unless_it_is_wanted():
    decoder = make_decoder()
    decoder(TOKEN_IDS, decoder.remember(VALUES))
    gated = make_decoder(has_gate=True)
    gated(TOKEN_IDS, gated.remember(VALUES))
    assert len(gated.weights) == len(decoder.weights) + 2


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_penalty_counts_all_looks_at_each_value(weight):
    decoder = make_decoder(attention_penalty=weight)
    memory = decoder.remember(VALUES)
    decoder(TOKEN_IDS, memory, training=True)
    (loss,) = decoder.losses
    # The same step by step.
    attended = np.zeros((2, 6))
    state = tf.nest.map_structure(
        lambda value: value[:, None], decoder.initial_state(memory)
    )
    for time in range(4):
        _, state, weights = decoder.step(TOKEN_IDS[:, time : time + 1], state, memory)
        attended += weights[:, 0].numpy() * (TOKEN_IDS[:, time : time + 1] != 0)
    np.testing.assert_allclose(attended.sum(axis=1), [4, 2], rtol=1e-5)
    expected = weight * np.mean((1 - attended) ** 2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_penalty_is_for_training_and_for_attention():
    for training, options in (
        (False, {"attention_penalty": 1.0}),
        (True, {"attention_penalty": 0.0}),
        (True, {"attention_penalty": 1.0, "attention": "none"}),
    ):
        decoder = make_decoder(**options)
        decoder(TOKEN_IDS, decoder.remember(VALUES), training=training)
        assert decoder.losses == []
