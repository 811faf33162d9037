import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.decoder import State
from apps.common.text import PADDING
from apps.common.tokenizer import START
from tests.apps.translation.untrained import make_model

# Lengths of sentences and of their translations, padded to 7 and to 6.
LENGTHS = ((7, 4), (3, 6), (1, 2))


@pytest.fixture(scope="module")
def token_ids():
    random = np.random.default_rng(1)
    source, target = (random.integers(4, 17, (3, size)) for size in (7, 6))
    target[:, 0] = START
    for i, (source_length, length) in enumerate(LENGTHS):
        source[i, source_length:] = PADDING
        target[i, length:] = PADDING
    return source.astype("int32"), target.astype("int32")


@pytest.fixture(
    scope="module",
    params=[("additive", None), ("multiplicative", 17), ("none", None)],
    ids=["additive", "multiplicative, two vocabularies", "none"],
)
def model(request):
    attention, target = request.param
    return make_model(20, target, attention=attention)


def first_state(model, memory):
    return State(*(value[:, None] for value in model.decoder.initial_state(memory)))


def step_by_step(model, source, target):
    """Returns logits and attention of each step, as a search computes them."""
    memory = model.encode(source)
    state = first_state(model, memory)
    logits, attention = [], []
    for time in range(target.shape[1]):
        embeddings = model.decoder.embed(target[:, time, None])
        readout, state, weights = model.decoder.decode(embeddings, state, memory)
        logits.append(model.decoder.logits(readout)[:, 0])
        attention.append(weights[:, 0])
    return np.stack(logits, 1), np.stack(attention, 1)


def test_training_and_search_compute_the_same_logits(model, token_ids):
    logits, _ = step_by_step(model, *token_ids)
    outputs = model(token_ids)
    assert outputs.shape == (3, 6, model.arguments["target_vocabulary_size"] or 20)
    np.testing.assert_allclose(outputs, logits, atol=1e-5)
    assert logits.std() > 0.3


def test_padding_does_not_matter(model, token_ids):
    expected = model(token_ids).numpy()
    wider = [np.pad(each, ((0, 0), (0, 9))) for each in token_ids]
    np.testing.assert_allclose(model(wider)[:, :6], expected, atol=1e-5)
    for i, (source_length, length) in enumerate(LENGTHS):
        source, target = (each[i : i + 1] for each in token_ids)
        alone = model([source[:, :source_length], target[:, :length]])
        np.testing.assert_allclose(expected[i, :length], alone[0], atol=1e-5)


def test_an_empty_sentence_is_encoded_without_nan(model):
    memory = model.encode(np.array([[PADDING, PADDING], [5, 6]], "int32"))
    assert np.isfinite(memory.summary).all()
    assert not memory.summary[0].numpy().any()


def test_a_sentence_is_encoded_the_same_without_a_mask(model, token_ids):
    memory = model.encode(token_ids[0])
    for i, (length, _) in enumerate(LENGTHS):
        sentence = token_ids[0][i : i + 1, :length]
        alone = model.encode(sentence, has_padding=False)
        assert alone.mask is None
        for name in ("values", "keys"):
            padded = getattr(memory, name)[i, :length]
            np.testing.assert_allclose(padded, getattr(alone, name)[0], atol=1e-5)
        np.testing.assert_allclose(memory.summary[i], alone.summary[0], atol=1e-5)
        mean = np.mean(alone.values[0], axis=0)
        np.testing.assert_allclose(alone.summary[0], mean, atol=1e-5)


def test_attention_sums_to_one_and_is_zero_at_padding(model, token_ids):
    _, attention = step_by_step(model, *token_ids)
    assert attention.shape == (3, 6, 7)
    if model.decoder.attention is None:
        assert (attention == 0).all()
        return
    np.testing.assert_allclose(attention.sum(axis=2), 1, rtol=1e-5)
    for row, (length, _) in zip(attention, LENGTHS, strict=True):
        assert (row[:, :length] > 0).all()
        assert (row[:, length:] == 0).all()
    assert attention[0].std() > 0.01


def test_beams_are_independent(model, token_ids):
    memory = model.encode(token_ids[0])
    random = np.random.default_rng(3)
    shapes = [(3, 4, value.shape[-1]) for value in model.decoder.initial_state(memory)]
    state = State(*(random.normal(size=s).astype("float32") for s in shapes))
    embeddings = random.normal(size=(3, 4, 8)).astype("float32")
    together = model.decoder.decode(embeddings, state, memory)
    for k in range(4):
        beam = slice(k, k + 1)
        alone = model.decoder.decode(
            embeddings[:, beam], State(*(value[:, beam] for value in state)), memory
        )
        for ours, theirs in zip(
            *map(keras.tree.flatten, (together, alone)), strict=True
        ):
            np.testing.assert_allclose(ours[:, beam], theirs, atol=1e-5)


def test_the_readout_is_fed_to_the_next_step(model, token_ids):
    memory = model.encode(token_ids[0])
    state = first_state(model, memory)
    assert not state.readout.numpy().any()
    embeddings = model.decoder.embed(token_ids[1][:, :1])
    readout, after, _ = model.decoder.decode(embeddings, state, memory)
    np.testing.assert_array_equal(after.readout, readout)
    other, _, _ = model.decoder.decode(
        embeddings, state._replace(readout=readout), memory
    )
    assert np.abs(other - readout).max(axis=2).min() > 1e-3


def test_every_source_token_matters(model, token_ids):
    source, target = token_ids
    expected = model(token_ids).numpy()
    for place in range(3):
        changed = source.copy()
        changed[1, place] = changed[1, place] % 16 + 1
        difference = np.abs(model([changed, target]) - expected).max(axis=(1, 2))
        assert difference[1] > 1e-3
        assert max(difference[0], difference[2]) < 1e-6


def test_logits_depend_on_earlier_tokens_only(model, token_ids):
    source, target = token_ids
    expected = model(token_ids).numpy()
    changed = target.copy()
    changed[0, 2] = changed[0, 2] % 16 + 1
    difference = np.abs(model([source, changed])[0] - expected[0]).max(axis=1)
    assert difference[:2].max() < 1e-6
    assert difference[2:4].min() > 1e-3


def test_a_model_is_saved_and_loaded(model, token_ids, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(token_ids), model(token_ids), atol=1e-6)
    assert again.arguments == model.arguments


def test_a_joint_vocabulary_has_one_embedding():
    joint, separate = make_model(20), make_model(20, 17)
    assert joint.source_embedding is joint.decoder.embedding
    assert separate.source_embedding.embeddings.shape == (20, 8)
    assert separate.decoder.embedding.embeddings.shape == (17, 8)
    assert joint.count_params() == separate.count_params() - 17 * 8


def test_dropout_is_applied_in_training_only(token_ids):
    model = make_model(embedding_dropout=0.5, dropout=0.5)
    np.testing.assert_array_equal(model(token_ids), model(token_ids))
    first, second = (model(token_ids, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_all_weights_have_gradients(model, token_ids):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(token_ids, training=True) ** 2)
    variables = [weight.value for weight in model.trainable_variables]
    for gradient in tape.gradient(loss, variables):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


def free_running(model, source, target):
    """Returns logits if every token but the first is the decoder's own prediction."""
    memory = model.encode(source)
    state = first_state(model, memory)
    token_ids, logits = target[:, :1], []
    for _ in range(target.shape[1]):
        embeddings = model.decoder.embed(token_ids)
        readout, state, _ = model.decoder.decode(embeddings, state, memory)
        logits.append(model.decoder.logits(readout)[:, 0].numpy())
        token_ids = logits[-1].argmax(-1)[:, None]
    return np.stack(logits, 1)


def test_the_teacher_forcing_rate_mixes_targets_and_predictions(token_ids):
    model, plain = make_model(scheduled_sampling=True), make_model()
    forced = plain(token_ids).numpy()
    free = free_running(plain, *token_ids)
    assert np.abs(free - forced).max() > 0.1
    np.testing.assert_allclose(model(token_ids, training=True), forced, atol=1e-5)
    model.decoder.teacher_forcing_rate.assign(0.0)
    np.testing.assert_allclose(model(token_ids, training=True), free, atol=1e-5)
    model.decoder.teacher_forcing_rate.assign(0.5)
    mixed = [model(token_ids, training=True).numpy() for _ in range(2)]
    assert np.abs(mixed[0] - mixed[1]).max() > 1e-3
    for logits in mixed:
        np.testing.assert_allclose(logits[:, 0], forced[:, 0], atol=1e-5)
    # Outside of training all tokens are forced.
    np.testing.assert_allclose(model(token_ids), forced, atol=1e-5)
