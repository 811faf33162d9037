import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from apps.common import feature_maps
from apps.face_synthesis import model as module
from apps.face_synthesis.model import build_model
from apps.face_synthesis.networks import build_discriminator, build_generator
from tests.apps.face_synthesis.tiny import small

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 16, 16, 3), "uint8")
VALUES = np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]]
NONE = np.zeros((6, 0), "float32")


def make(value_counts=(), **settings):
    """Returns a model of fixed random weights."""
    keras.utils.set_random_seed(0)
    settings = {"model": "conditional_gan" if value_counts else "gan", **settings}
    return build_model(config=small(**settings), value_counts=value_counts)


def one_step(model, values=NONE, optimizer=None):
    """Trains one step, by default with plain gradient descent."""
    model.compile(optimizer or keras.optimizers.SGD(1.0), jit_compile=False)
    logs = model.train_step((tf.constant(IMAGES), tf.constant(values)))
    return {name: float(value) for name, value in logs.items()}


PLAIN = {"augmentation": (), "flip": False}


@pytest.mark.parametrize("values", [NONE, VALUES], ids=["gan", "conditional_gan"])
def test_both_networks_follow_the_gradient_of_their_loss(values):
    value_counts = (3,) if values is VALUES else ()
    model, twin = (make(value_counts, **PLAIN) for _ in range(2))
    logs = one_step(model, values)
    seeds = tf.unstack(tf.random.experimental.stateless_split([0, 0], 4))
    noise = tf.random.stateless_normal((6, 12), seeds[1])
    real = tf.constant(IMAGES / 127.5 - 1, tf.float32)
    wanted = tf.constant(values)
    with tf.GradientTape(persistent=True) as tape:
        drawn = twin.generator(twin.mapping([noise, wanted]), training=True)
        scores = twin.discriminator([drawn, wanted], training=True)
        real_scores = twin.discriminator([real, wanted], training=True)
        loss = -tf.reduce_mean(scores)
        other = tf.reduce_mean(tf.maximum(1 + scores, 0.0))
        other += tf.reduce_mean(tf.maximum(1 - real_scores, 0.0))
    assert logs["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert logs["discriminator_loss"] == pytest.approx(float(other), rel=1e-4)
    for name, target in (
        ("mapping", loss),
        ("generator", loss),
        ("discriminator", other),
    ):
        weights = getattr(twin, name).trainable_variables
        gradients = tape.gradient(target, weights)
        for before, gradient, after in zip(
            weights, gradients, getattr(model, name).trainable_variables, strict=True
        ):
            np.testing.assert_allclose(after, before - gradient, rtol=1e-3, atol=1e-4)


def test_the_hinge_loss_has_a_margin_of_one():
    real, generated = np.array([3.0, 0.5, -1.0]), np.array([-4.0, 0.25, 2.0])
    loss, discriminator_loss = module.hinge_losses(real, generated)
    assert float(loss) == pytest.approx(4 / 3 - 2.25 / 3)
    assert float(discriminator_loss) == pytest.approx((0.5 + 2 + 1.25 + 3) / 3)


@pytest.fixture(scope="module")
def trained():
    """Returns a conditional GAN after 40 steps; it does not learn in the last 20."""
    model = make((3,))
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    step = tf.function(
        lambda: model.train_step((tf.constant(IMAGES), tf.constant(VALUES)))
    )
    for rate in (1e-3, 0.0):
        model.optimizer.learning_rate.assign(rate)
        for _ in range(20):  # Power iteration needs some steps.
            step()
    return model


def test_only_what_scores_features_is_trained(trained):
    keras.utils.set_random_seed(0)
    twin = make((3,)).discriminator
    variables = {id(each) for each in trained.discriminator.trainable_variables}
    pairs = zip(trained.discriminator.weights, twin.weights, strict=True)
    for after, before in pairs:
        # Spectral and batch normalization have statistics of their own.
        if not after.path.endswith(("vector_u", "moving_mean", "moving_variance")):
            same = np.array_equal(after.numpy(), before.numpy())
            assert same == (id(after) not in variables), after.path
    encoder = trained.discriminator.get_layer("backbone")
    pairs = zip(encoder.weights, twin.get_layer("backbone").weights, strict=True)
    assert all(np.array_equal(after, before) for after, before in pairs)


def test_spectral_normalization_limits_what_scores_features(trained):
    layers = trained.discriminator.layers
    kernels = [
        layer.layer.kernel.numpy()
        for layer in layers
        if isinstance(layer, keras.layers.SpectralNormalization)
    ]
    normalized = (keras.layers.SpectralNormalization, keras.layers.BatchNormalization)
    assert all(
        isinstance(layer, normalized) for layer in layers if layer.trainable_variables
    )
    for kernel in kernels:
        norm = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)
        assert norm == pytest.approx(1, abs=0.05)


def test_features_are_mixed_from_large_strides_to_small_ones():
    network = build_discriminator(64, 0)
    images = RANDOM.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    names = ["channels_4", "channels_8", "above_4", "strides_4", "strides_8"]
    layers = {name: network.get_layer(name) for name in names}
    outputs = [layer.output for layer in layers.values()]
    found = keras.Model(network.input, outputs)([images, NONE[:2]])
    found = dict(zip(names, found, strict=True))
    preprocess, encoder, _ = feature_maps.load_encoder("EfficientNetLite0", "imagenet")
    pixels = keras.ops.image.resize(127.5 * images + 127.5, (128, 128))
    maps = encoder(preprocess(pixels))
    for name, features in (
        ("channels_4", maps[0]),
        ("channels_8", maps[1]),
        ("above_4", found["strides_8"]),
    ):
        expected = features @ layers[name].kernel.numpy()[0, 0]
        np.testing.assert_allclose(found[name], expected, atol=1e-3)
    above = keras.ops.image.resize(found["above_4"], (32, 32))
    mixed = layers["strides_4"](found["channels_4"] + above)
    np.testing.assert_allclose(found["strides_4"], mixed, atol=1e-3)


@pytest.mark.parametrize(("image_size", "scores"), [(16, 2), (64, 4), (128, 4)])
def test_feature_maps_of_four_places_and_more_are_scored(image_size, scores):
    assert build_discriminator(image_size, 0).output.shape == (None, scores)


def test_the_scores_see_how_much_images_differ():
    network = build_discriminator(16, 0)
    like = np.repeat(RANDOM.uniform(-1, 1, (1, 16, 16, 3)), 4, axis=0)
    varied = like + RANDOM.normal(0, 0.5, like.shape) * [
        [[[0]]],
        [[[1]]],
        [[[1]]],
        [[[1]]],
    ]
    first = [network([images, NONE[:4]])[0].numpy() for images in (like, varied)]
    assert np.abs(first[0] - first[1]).min() > 1e-3


def test_the_average_follows_the_generator():
    model = make()
    before = [weight.numpy() for weight in model.average_generator.weights]
    one_step(model, optimizer=keras.optimizers.Adam(0.01))
    pairs = zip(
        before, model.generator.weights, model.average_generator.weights, strict=True
    )
    for old, weight, average in pairs:  # The first decay is 1 / 10.
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * weight, atol=1e-6)
    assert not model.average_generator.trainable_variables
    model.average_decay = 1.0
    model.optimizer.iterations.assign(10**9)
    before = model.average_generator.get_weights()
    model.train_step((tf.constant(IMAGES), tf.constant(NONE)))
    for old, new in zip(before, model.average_generator.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


def test_the_average_draws():
    model = make((3,))
    one_step(model, VALUES)
    noise = RANDOM.normal(size=(6, 12)).astype("float32")
    expected = model.average_generator(model.map_noise(noise, VALUES))
    np.testing.assert_array_equal(model([noise, VALUES]), expected)


def test_faces_are_drawn_with_emphasized_attributes():
    model = make((3, 2))
    noise = RANDOM.normal(size=(6, 12)).astype("float32")
    values = np.concatenate([VALUES, np.eye(2)[[0, 1, 1, 0, 0, 1]]], axis=1)
    latents = model.map_noise(noise, values.astype("float32")).numpy()
    kernel = model.average_mapping.get_layer("shift").kernel.numpy()
    means = np.concatenate([kernel[:3].mean(axis=0), kernel[3:].mean(axis=0)])
    means = means.reshape(2, 12)
    centered = kernel - np.repeat(means, [3, 2], axis=0)
    # What the noise adds along the differences of values is left out.
    noise -= noise @ np.linalg.pinv(centered, rcond=1e-4) @ centered
    expected = noise + means.sum(axis=0) + 1.25 * values @ centered
    np.testing.assert_allclose(latents, expected, atol=1e-5)
    np.testing.assert_array_equal(make().map_noise(noise, NONE), noise)


def test_the_discriminator_projects_attributes(trained):
    network = trained.discriminator
    images = (IMAGES / 127.5 - 1).astype("float32")
    others = np.roll(VALUES, 1, axis=1)
    change = network([images, others]).numpy() - network([images, VALUES]).numpy()
    for i, stride in enumerate((8, 4)):
        features = network.get_layer(f"{stride}_score").input
        maps = keras.Model(network.input, features)([images, VALUES]).numpy()
        kernel = network.get_layer(f"{stride}_wanted").layer.kernel.numpy()
        # The deviations of the channels lie behind them.
        mean = maps[..., : len(kernel.T)].mean(axis=(1, 2))
        expected = (mean * ((others - VALUES) @ kernel)).sum(axis=1)
        np.testing.assert_allclose(change[:, i], expected, atol=1e-4)


def test_the_scores_of_held_out_images_are_measured():
    model = make(**PLAIN)
    model.compile(keras.optimizers.SGD(), jit_compile=False)
    logs = model.test_step((tf.constant(IMAGES), tf.constant(NONE)))
    scores = model.discriminator([(IMAGES / 127.5 - 1).astype("float32"), NONE])
    assert float(logs["real_score"]) == pytest.approx(float(np.mean(scores)), abs=1e-5)


def test_the_lower_bound_is_that_of_gaussians():
    model = make(model="vae")
    for layer in model.encoder.layers:
        if layer.name == "log_variance":
            layer.kernel.assign(0.02 * RANDOM.normal(size=layer.kernel.shape))
    model.log_variance.assign(-1.3)
    images = (IMAGES / 127.5 - 1).astype("float32")
    parts = {name: value.numpy() for name, value in model.lower_bound(images).items()}
    mean, log_variance = (each.numpy() for each in model.encoder(images))
    drawn = model.decoder(mean).numpy()
    density = scipy.stats.norm(drawn, np.exp(-1.3 / 2)).logpdf(images)
    np.testing.assert_allclose(
        parts["reconstruction"], density.sum(axis=(1, 2, 3)), rtol=1e-4
    )
    prior, posterior = 1.0, np.exp(log_variance)
    divergence = 0.5 * ((posterior + mean**2) / prior - 1 - log_variance).sum(axis=1)
    np.testing.assert_allclose(parts["divergence"], divergence, rtol=1e-4)
    squares = np.square(images - drawn).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(parts["squared_error"], squares, rtol=1e-4)
    np.testing.assert_array_equal(parts["latents"], mean)


def test_the_variance_follows_the_squared_error():
    model = make(model="vae", flip=False)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    errors = []
    for _ in range(3):
        model.train_step((tf.constant(IMAGES), tf.constant(NONE)))
        errors.append(float(model.trackers["squared_error"].result()))
        model.reset_metrics()
    decay, variance = module.VARIANCE_DECAY, 1.0
    for error in errors:
        variance = decay * variance + (1 - decay) * error
    assert float(np.exp(model.log_variance)) == pytest.approx(variance, rel=1e-5)
    assert not model.log_variance.trainable


def test_beta_weighs_the_divergence():
    model = make(model="vae", beta=3.0)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    logs = model.test_step((tf.constant(IMAGES), tf.constant(NONE)))
    loss = 3 * logs["divergence"] - logs["reconstruction"]
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
    before = float(loss)
    for _ in range(30):
        model.train_step((tf.constant(IMAGES), tf.constant(NONE)))
    model.reset_metrics()
    assert float(model.test_step((tf.constant(IMAGES), NONE))["loss"]) < before - 10


@pytest.mark.parametrize("kind", ["vae", "gan", "conditional_gan"])
def test_a_saved_model_draws_the_same(kind, tmp_path):
    value_counts = (3,) if kind == "conditional_gan" else ()
    model = make(value_counts, model=kind)
    latents = RANDOM.normal(size=(2, 12)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(again.draw(latents), model.draw(latents))
    values = VALUES[:2] if value_counts else NONE[:2]
    np.testing.assert_array_equal(
        again.map_noise(latents, values), model.map_noise(latents, values)
    )
    assert again.get_config() == model.get_config()


@pytest.mark.parametrize("size", [16, 128])
def test_filters_double_down_to_the_lowest_resolution(size):
    network = build_generator(size, 8, 2)
    assert network.output.shape == (None, size, size, 3)
    found = {
        layer.name: layer.layer.filters
        for layer in network.layers
        if layer.name.isdigit()
    }
    # Half of the filters are gates.
    expected = {str(size // 2**i): 4 * min(2**i, 8) for i in range(6)}
    assert found == {name: n for name, n in expected.items() if int(name) > 4}
    assert network.get_layer("start").units == 4 * 4 * 4 * min(size // 4, 8)


def test_a_new_generator_draws_images_that_differ():
    generator = build_generator(16, 8, 4)
    noise = RANDOM.normal(size=(16, 8)).astype("float32")
    images = generator(noise, training=True).numpy()
    assert np.abs(images).max() <= 1
    assert images.std(axis=0).mean() > 0.05
