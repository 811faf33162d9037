"""The exported functions; the contract compares the engines."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common.images import encode_png
from apps.common.predictors import as_predictor
from apps.face_synthesis import attributes as attributes_module
from apps.face_synthesis.attributes import Attribute
from apps.face_synthesis.grids import decode
from apps.face_synthesis.model import build_model
from apps.face_synthesis.signatures import (
    Synthesizer,
    for_inference,
    noise_of,
    to_bytes,
)
from tests.apps.face_synthesis.tiny import small

ATTRIBUTES = (Attribute("sex", ("f", "m")), Attribute("age", ("young", "mid", "old")))
COMBINATIONS = np.array([[0, 2], [1, 0], [1, 1]])
PROBABILITIES = np.array([0.5, 0.2, 0.3])


def make(kind):
    """Returns a `Synthesizer` of random weights."""
    config = small(model=kind)
    attributes = ATTRIBUTES if kind == "conditional_gan" else ()
    model = build_model(config=config, value_counts=[2, 3] if attributes else [])
    return Synthesizer(model, attributes, COMBINATIONS, PROBABILITIES, config)


@pytest.fixture(scope="module")
def conditional():
    return make("conditional_gan")


@pytest.fixture(scope="module")
def autoencoder():
    return make("vae")


def ask(synthesizer, signature, inputs):
    function = synthesizer.signatures[signature]
    (spec,) = function.input_signature
    return as_predictor(function, spec.dtype)(inputs)


def test_a_seed_draws_the_same_face_alone_and_among_others(conditional):
    many = ask(conditional, "serving_default", [3, 4, 5])
    alone = ask(conditional, "serving_default", [4])
    for name, value in alone.items():
        np.testing.assert_array_equal(value[0], many[name][1])
    assert len(set(many["image_bytes"])) == 3
    assert decode(many["image_bytes"]).shape == (3, 16, 16, 3)


def test_faces_come_from_the_noise_and_the_attributes(conditional):
    answers = ask(conditional, "serving_default", [11])
    sex, age = answers["attributes"][0].astype(str)
    indices = ATTRIBUTES[0].values.index(sex), ATTRIBUTES[1].values.index(age)
    values = np.concatenate([np.eye(2)[indices[0]], np.eye(3)[indices[1]]])
    noise = noise_of(tf.constant(11, tf.int64), 12)[None]
    model = conditional.model
    latents = model.map_noise(noise, tf.constant(values[None], tf.float32))
    np.testing.assert_allclose(answers["latents"], latents, atol=1e-5)
    pixels = to_bytes(model.draw(latents))
    np.testing.assert_allclose(decode(answers["image_bytes"]), pixels, atol=1)


def test_attributes_are_drawn_as_often_as_they_occur(conditional):
    seeds = np.arange(2000)
    codes = conditional._draw_codes(tf.constant(seeds, tf.int64)).numpy()
    for combination, probability in zip(COMBINATIONS, PROBABILITIES, strict=True):
        is_drawn = (codes == combination).all(axis=1)
        assert is_drawn.mean() == pytest.approx(probability, abs=0.04)


def test_wanted_attributes_replace_the_drawn_ones(conditional):
    drawn = ask(conditional, "serving_default", [7, 7, 7])
    rows = [["7", "", ""], ["7", "m", "old"], ["007", "f", ""]]
    answers = ask(conditional, "with_attributes", rows)
    assert answers["image_bytes"][0] == drawn["image_bytes"][0]
    found = answers["attributes"].astype(str)
    assert found[1].tolist() == ["m", "old"]
    assert found[2].tolist() == ["f", drawn["attributes"][0, 1].decode()]
    assert not any(answers["errors"])


def test_several_mistakes_have_the_first_error(conditional):
    answers = ask(conditional, "with_attributes", [["x", "y", "z"], ["1", "m", "z"]])
    first, second = answers["errors"].astype(str)
    assert first.startswith("the seed must be a whole number from 0")
    assert second == "age must be one of young, mid, old, or empty"
    assert not answers["latents"].any()


def test_latents_draw_the_face_they_came_with(conditional):
    answers = ask(conditional, "serving_default", [1, 2])
    again = ask(conditional, "latent", answers["latents"])
    ours, theirs = (decode(each["image_bytes"]) for each in (again, answers))
    np.testing.assert_array_equal(ours, theirs)
    images = ask(conditional, "tensors", answers["latents"])["images"]
    np.testing.assert_allclose(images.clip(0, 255), theirs, atol=0.51)


def test_each_kind_has_its_signatures(conditional, autoencoder):
    common = {"serving_default", "latent", "tensors"}
    assert set(conditional.signatures) == common | {"with_attributes"}
    assert set(autoencoder.signatures) == common | {"reconstruct"}
    plain = make("gan")
    assert set(plain.signatures) == common
    answers = ask(plain, "serving_default", [1])
    assert set(answers) == {"image_bytes", "latents", "errors"}


def test_images_are_reconstructed(autoencoder):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), "uint8")
    files = [encode_png(pixels[0]), b"no image", encode_png(pixels[1])]
    answers = ask(autoencoder, "reconstruct", files)
    good = [0, 2]
    parts = autoencoder.model.lower_bound((pixels / 127.5 - 1).astype("float32"))
    np.testing.assert_allclose(answers["latents"][good], parts["latents"], atol=1e-4)
    elbo = parts["reconstruction"] - parts["divergence"]
    np.testing.assert_allclose(answers["elbo"][good], elbo, rtol=1e-4)
    again = ask(autoencoder, "latent", answers["latents"][good])["image_bytes"]
    assert answers["reconstruction_bytes"][good].tolist() == again.tolist()
    assert answers["reconstruction_bytes"][1] == b""
    assert b"is no JPEG" in answers["errors"][1]
    assert answers["elbo"][1] == 0
    large = io.BytesIO()
    Image.fromarray(pixels[0].repeat(5, 0).repeat(3, 1)).save(large, "PNG")
    assert not ask(autoencoder, "reconstruct", [large.getvalue()])["errors"][0]


def test_an_autoencoder_draws_from_the_prior(autoencoder):
    answers = ask(autoencoder, "serving_default", [5])
    noise = noise_of(tf.constant(5, tf.int64), 12)
    np.testing.assert_allclose(answers["latents"][0], noise, atol=1e-6)


def test_weights_are_rounded_to_half_precision():
    model = for_inference(make("gan").model)
    for weight in model.average_generator.weights:
        half = weight.numpy().astype("float16").astype("float32")
        np.testing.assert_array_equal(weight, half)


def test_attributes_of_a_run_are_loaded(run):
    attributes, combinations, probabilities = attributes_module.load(run)
    assert [each.name for each in attributes] == ["smiling", "glasses", "hair"]
    assert combinations.shape == (len(probabilities), 3)
    assert probabilities.sum() == pytest.approx(1)
