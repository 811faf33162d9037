import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import backbones
from apps.common.decoder import State
from apps.common.text import PADDING
from apps.common.tokenizer import START
from apps.image_captioning.config import Config
from apps.image_captioning.model import OUTPUTS, build_model, for_inference
from tests.apps.image_captioning.untrained import make_model, random_images

IMAGES = random_images(3)
# Captions of 6, 4 and 2 tokens.
TOKEN_IDS = np.random.default_rng(1).integers(4, 20, (3, 6)).astype("int32")
TOKEN_IDS[:, 0] = START
for i, length in enumerate((6, 4, 2)):
    TOKEN_IDS[i, length:] = PADDING


@pytest.fixture(scope="module", params=["additive", "multiplicative", "none"])
def model(request):
    return make_model(attention=request.param)


@pytest.fixture(scope="module")
def features(model):
    """The features of the images; the backbone is the same with any attention."""
    return model.extract(IMAGES).numpy()


def from_features(model, features, training=False):
    inputs = {"features": features, "token_ids": TOKEN_IDS}
    return model(inputs, training=training)


def step_by_step(model, features):
    """Returns the states, the attention and the logits of each step, as a search."""
    decoder, memory = model.decoder, model.encode(features)
    state = State(*(value[:, None] for value in decoder.initial_state(memory)))
    steps = []
    for time in range(TOKEN_IDS.shape[1]):
        embeddings = decoder.embed(TOKEN_IDS[:, time, None])
        readout, state, weights = decoder.decode(embeddings, state, memory)
        steps.append((state.h, weights, decoder.logits(readout)))
    return [
        np.concatenate(values, axis=1) for values in zip(*steps, strict=True)
    ], memory


def test_training_and_search_compute_the_same_logits(model, features):
    (_, _, logits), _ = step_by_step(model, features)
    outputs = from_features(model, features)
    assert outputs.shape == (3, 6, 20)
    np.testing.assert_allclose(outputs, logits, atol=1e-4)
    assert logits.std() > 0.3


def test_images_have_the_logits_of_their_features(model, features):
    outputs = model({"images": IMAGES, "token_ids": TOKEN_IDS})
    np.testing.assert_allclose(outputs, from_features(model, features), atol=1e-4)


def test_features_are_those_of_the_network_row_by_row(model, features):
    maps = model.network(IMAGES / 127.5 - 1).numpy()
    assert list(maps.shape) == [3, *model.grid, model.num_channels]
    assert features.shape == (3, 16, 128)
    np.testing.assert_allclose(features[:, 4 * 2 + 3], maps[:, 2, 3], atol=1e-4)


def test_places_are_encoded_as_numpy_does(model, features):
    gamma, beta, kernel, bias = (
        *model.normalization.get_weights(),
        *model.reduction.get_weights(),
    )
    mean, variance = (f(features, -1, keepdims=True) for f in (np.mean, np.var))
    x = (features - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    expected = np.maximum(x @ kernel + bias, 0) + model.positions.numpy()
    memory = model.encode(features)
    np.testing.assert_allclose(memory.values, expected, atol=1e-4)
    np.testing.assert_allclose(memory.summary, expected.mean(axis=1), atol=1e-4)
    assert memory.mask is None


def test_a_gate_scales_what_attention_reads(model, features):
    (h, weights, logits), memory = step_by_step(model, features)
    if model.decoder.attention is None:
        assert not weights.any()
        context = np.repeat(memory.summary[:, None], 6, axis=1)
    else:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
        assert weights.std() > 0.01
        context = weights @ memory.values.numpy()
    kernel, bias = model.decoder.gate.get_weights()
    gate = 1 / (1 + np.exp(-(h @ kernel + bias)))
    assert gate.std() > 0.05
    kernel, bias = model.decoder.readout.get_weights()
    readout = np.tanh(np.concatenate([h, gate * context], -1) @ kernel + bias)
    embeddings = model.decoder.embedding.embeddings.numpy()
    np.testing.assert_allclose(logits, readout @ embeddings.T, atol=1e-4)


def test_the_decoder_knows_places_by_their_positions(model, features):
    order = np.random.default_rng(0).permutation(16)
    logits, positions = from_features(model, features), model.positions.numpy()
    moved = np.abs(from_features(model, features[:, order]) - logits).max()
    model.positions.assign(positions[order])
    together = from_features(model, features[:, order])
    model.positions.assign(positions)
    np.testing.assert_allclose(together, logits, atol=1e-4)
    if model.decoder.attention is None:  # It reads the mean of all places.
        assert moved < 1e-4
    else:
        assert moved > 0.05


def test_images_and_later_tokens_do_not_matter_to_others(model, features):
    logits = from_features(model, features).numpy()
    changed = features.copy()
    changed[1] *= -1
    difference = np.abs(from_features(model, changed) - logits).max(axis=(1, 2))
    assert difference[1] > 0.1
    assert max(difference[0], difference[2]) < 1e-5
    token_ids = TOKEN_IDS.copy()
    token_ids[0, 2] = token_ids[0, 2] % 16 + 4
    inputs = {"features": features, "token_ids": token_ids}
    difference = np.abs(model(inputs)[0] - logits[0]).max(axis=1)
    assert difference[:2].max() < 1e-5
    assert difference[2:4].min() > 1e-3


def test_a_model_is_saved_and_loaded(model, features, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.arguments == model.arguments
    assert (again.grid, again.num_channels) == (model.grid, model.num_channels)
    expected = from_features(model, features)
    np.testing.assert_allclose(from_features(again, features), expected, atol=1e-5)
    np.testing.assert_allclose(again.extract(IMAGES), features, atol=1e-4)


def test_the_settings_are_those_of_the_configuration():
    changes = {"dropout": 0.3, "attention_penalty": 2.0, "attention_units": 9}
    config = Config("", image_size=32, backbone="small_resnet", weights=None, **changes)
    model = build_model(config=config, vocabulary_size=30)
    assert model.arguments.pop("vocabulary_size") == 30
    assert model.arguments == {name: getattr(config, name) for name in model.arguments}
    assert model.decoder.embedding.embeddings.shape == (30, config.embedding_size)
    assert model.decoder.lstm.units == config.units
    assert (model.grid, model.num_channels) == ([2, 2], 128)


def test_dropout_and_the_penalty_are_of_training_only():
    penalties = []
    for weight in (1.0, 2.0):
        model = make_model(dropout=0.5, attention_penalty=weight)
        features = model.extract(IMAGES)
        np.testing.assert_array_equal(
            *(from_features(model, features) for _ in range(2))
        )
        assert not model.losses
        first, second = (from_features(model, features, True) for _ in range(2))
        assert np.abs(first - second).max() > 0.1
        plain = make_model(dropout=0.0, attention_penalty=weight)
        from_features(plain, features, True)
        penalties.append(float(plain.losses[0]))
    assert penalties[1] == pytest.approx(2 * penalties[0])


def gradients(model, inputs):
    """Returns the largest gradient of each weight that is trained, by its path."""
    before = model.get_weights()
    with tf.GradientTape() as tape:
        total = tf.reduce_mean(model(inputs, training=True) ** 2)
    model.set_weights(before)  # Batch normalization has changed its statistics.
    found = tape.gradient(total, [each.value for each in model.trainable_variables])
    assert all(gradient is not None for gradient in found)
    largest = [np.abs(tf.convert_to_tensor(each)).max() for each in found]
    paths = [weight.path for weight in model.trainable_variables]
    assert len(set(paths)) == len(paths)
    return dict(zip(paths, largest, strict=True))


def test_all_weights_are_trained_from_images_and_all_but_the_network_from_features(
    model, features
):
    network = {weight.path for weight in model.network.weights}
    all_paths = {weight.path for weight in model.trainable_variables}
    found = gradients(model, {"images": IMAGES, "token_ids": TOKEN_IDS})
    assert set(found) == all_paths
    assert min(found.values()) > 0
    backbones.set_trainable(model.network, 0)
    try:
        inputs = {"features": features, "token_ids": TOKEN_IDS}
        found = gradients(model, inputs)
        assert set(found) == all_paths - network
        assert min(found.values()) > 0
    finally:
        model.network.trainable = True


def test_fine_tuning_trains_the_last_layers_of_the_network():
    model = make_model()
    backbones.set_trainable(model.network, 0.5)
    found = gradients(model, {"images": IMAGES, "token_ids": TOKEN_IDS})
    assert min(found.values()) > 0
    trained = {path.split("/")[-3] for path in found if "convolution" in path}
    assert trained == {"block_2", "block_3", "block_4"}
    assert not any("/normalization_" in path for path in found)
    assert any(path.endswith("positions") for path in found)


def in_half(weights):
    return [np.asarray(each).astype("float16").astype("float32") for each in weights]


def test_inference_has_the_model_in_half_precision(model):
    before = model.get_weights()
    copy = for_inference(model)
    assert copy.arguments == model.arguments
    for ours, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, value)
    rounded = in_half(before)
    assert any(
        (ours != value).any() for ours, value in zip(rounded, before, strict=True)
    )
    for ours, value in zip(copy.get_weights(), rounded, strict=True):
        np.testing.assert_array_equal(ours, value)
    model.set_weights(rounded)
    inputs = {"images": IMAGES, "token_ids": TOKEN_IDS}
    expected = model(inputs).numpy()
    model.set_weights(before)
    np.testing.assert_allclose(copy(inputs), expected, atol=1e-4)


@pytest.mark.parametrize("backbone", OUTPUTS)
def test_pretrained_networks_end_early_and_are_folded(backbone):
    config = Config("", image_size=64, backbone=backbone, weights=None)
    model = build_model(config=config, vocabulary_size=20)
    assert (
        model.num_channels == {"EfficientNetLite0": 320, "MobileNetV2": 320}[backbone]
    )
    assert model.grid == [2, 2]
    # Statistics that the folding must use.
    random = np.random.default_rng(0)
    for weight in model.network.non_trainable_weights:
        weight.assign(random.uniform(0.5, 1.5, weight.shape))
    backbones.set_trainable(model.network, 0)
    copy = for_inference(model)
    assert len(copy.network.weights) < 0.6 * len(model.network.weights)
    for ours, half in zip(copy.get_weights(), in_half(copy.get_weights()), strict=True):
        np.testing.assert_array_equal(ours, half)
    images = random_images(2, 64)
    features, expected = (each.extract(images).numpy() for each in (copy, model))
    assert expected.std() > 0.01
    np.testing.assert_allclose(features, expected, atol=0.02 * np.abs(expected).max())
