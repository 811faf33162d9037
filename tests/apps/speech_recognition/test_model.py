import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.speech_recognition.config import Config
from apps.speech_recognition.model import ctc_loss
from apps.speech_recognition.train import make_model

TINY = {"sampling_rate": 8_000, "num_mels": 20, "filters": 4, "units": 6}
NUM_TOKENS = 5


def tiny_model(**changes):
    """Returns a model with random weights, those of batch normalization included."""
    keras.utils.set_random_seed(0)
    settings = {**TINY, "decoder_units": 8, "dropout": 0.0, **changes}
    model = make_model(Config("", **settings), NUM_TOKENS)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "moving_mean" in weight.path:
            weight.assign(random.normal(-3, 1, weight.shape))
        elif "moving_variance" in weight.path:
            weight.assign(random.uniform(1, 3, weight.shape))
    return model


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype("float32")


@pytest.mark.parametrize("subsampling", [1, 2, 4])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_padding_of_a_batch_changes_nothing(subsampling, streaming):
    model = tiny_model(subsampling=subsampling, streaming=streaming)
    samples, lengths = noise(2, 6_000), np.array([6_000, 3_210], "int32")
    samples[1, 3_210:] = 0
    together = model([samples, lengths])
    for row, length in zip(range(2), lengths, strict=True):
        frames = int(model.num_frames(int(length)))
        alone = model.encode(samples[row : row + 1, :length])
        assert alone.shape[1] == frames == -(-length // (80 * subsampling))
        np.testing.assert_allclose(together[row, :frames], alone[0], atol=1e-5)


@pytest.mark.parametrize("subsampling", [1, 2, 4])
def test_audio_in_pieces_gives_the_same_frames(subsampling):
    """The state of the LSTMs is the device's, so they are left out here."""
    model = tiny_model(subsampling=subsampling, streaming=True)
    model.recurrences = []
    samples = noise(1, 6_400)
    context, pieces = model.first_context(), []
    for start in range(0, 6_400, 2 * model.chunk_samples):
        piece = samples[:, start : start + 2 * model.chunk_samples]
        encoded, context = model.listen(piece, *context)
        pieces.append(encoded)
    whole = model.encode(samples)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)
    # The context matters.
    again, _ = model.listen(samples[:, -640:], *model.first_context())
    assert np.abs(again - whole[:, -again.shape[1] :]).max() > 1e-3


@pytest.mark.parametrize("streaming", [False, True])
def test_only_a_streaming_model_ignores_later_audio(streaming):
    model = tiny_model(streaming=streaming)
    samples = noise(1, 6_400)
    changed = samples.copy()
    changed[:, 3_200:] = noise(1, 3_200, seed=1)
    difference = np.abs(model.encode(samples) - model.encode(changed)).max(axis=(0, 2))
    assert (difference[:20].max() < 1e-6) == streaming
    assert difference[20:].max() > 1e-3


def brute_force_loss(token_ids, logits):
    """Returns −log of the sum over all paths that collapse to the tokens."""
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        collapsed = [token for token, _ in itertools.groupby(path) if token]
        if collapsed == list(token_ids):
            total += np.exp(log_probs[np.arange(len(path)), path].sum())
    return -np.log(total)


def test_the_ctc_loss_is_that_of_all_paths():
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 5, 4)).astype("float32")
    token_ids = np.array([[1, 2, 0], [3, 3, 1], [2, 0, 0]], "int32")
    frames = np.array([5, 5, 3], "int32")
    expected = sum(
        brute_force_loss(row[row > 0], each[:length])
        for row, each, length in zip(token_ids, logits, frames, strict=True)
    )
    loss = ctc_loss(tf.constant(token_ids), tf.constant([2, 3, 1]), logits, frames)
    assert float(loss) == pytest.approx(expected / 6, rel=1e-5)


def test_too_few_frames_do_not_spoil_the_loss():
    """Two equal tokens need a blank between them: three frames."""
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    token_ids = tf.constant([[1, 1], [2, 0]])
    alone = ctc_loss(token_ids[1:, :1], tf.constant([1]), logits[1:], [3])
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        both = ctc_loss(token_ids, tf.constant([2, 1]), variable, [2, 3])
    assert float(both) == pytest.approx(float(alone) / 3, rel=1e-5)
    gradient = tape.gradient(both, variable)
    assert np.isfinite(gradient).all()
    assert not gradient[0].numpy().any()


def test_the_attention_decoder_reads_start_and_writes_the_end():
    model = tiny_model(decoder="attention", label_smoothing=0.0, ctc_weight=0.0)
    inputs = [noise(2, 3_200), np.array([3_200, 1_600], "int32")]
    token_ids = tf.constant([[1, 2, 3], [4, 0, 0]])
    encoded = model(inputs)
    loss = model.compute_loss(inputs, token_ids, encoded, training=False)
    memory = model.remember(encoded, inputs[1])
    logits = model.decoder(tf.constant([[0, 1, 2, 3], [0, 4, 0, 0]]), memory)
    log_probs = tf.nn.log_softmax(logits).numpy()
    expected = -(
        log_probs[0, [0, 1, 2, 3], [1, 2, 3, 0]].sum()
        + log_probs[1, [0, 1], [4, 0]].sum()
    )
    assert float(loss) == pytest.approx(expected / 6, rel=1e-5)


def test_both_losses_are_weighted():
    inputs = [noise(1, 3_200), np.array([3_200], "int32")]
    token_ids = tf.constant([[1, 2, 3]])
    losses = {}
    for weight in (0.0, 0.3, 1.0):
        model = tiny_model(decoder="attention", ctc_weight=weight)
        encoded = model(inputs)
        loss = model.compute_loss(inputs, token_ids, encoded, training=False)
        losses[weight] = float(loss)
    assert losses[0.3] == pytest.approx(0.3 * losses[1.0] + 0.7 * losses[0.0], rel=1e-5)
    assert losses[0.0] != pytest.approx(losses[1.0], rel=0.01)


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_all_weights_have_gradients(decoder):
    model = tiny_model(decoder=decoder)
    inputs = [noise(2, 3_200), np.array([3_200, 1_600], "int32")]
    token_ids = tf.constant([[1, 2, 3], [4, 2, 0]])
    with tf.GradientTape() as tape:
        encoded = model(inputs, training=True)
        loss = model.compute_loss(inputs, token_ids, encoded, training=True)
    variables = [weight.value for weight in model.trainable_variables]
    for weight, gradient in zip(
        model.trainable_variables, tape.gradient(loss, variables), strict=True
    ):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, weight.path


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_a_model_is_saved_and_loaded(decoder, tmp_path):
    model = tiny_model(decoder=decoder)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    samples = noise(1, 1_600)
    np.testing.assert_allclose(again.encode(samples), model.encode(samples), atol=1e-6)
