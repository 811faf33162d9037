import dataclasses

import keras
import numpy as np
import pytest

from apps.common import backbones
from apps.image_classification.config import Config, digits
from apps.image_classification.data import load_examples, make_batches
from apps.image_classification.grad_cam import grad_cam
from apps.image_classification.model import (
    build_model,
    load_classifier,
)
from apps.image_classification.train import compile_model, train

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


# Three ways to prepare pixels: scaled, as mean-free BGR, inside the backbone.
@pytest.mark.parametrize("backbone", ["MobileNetV2", "VGG16", "MobileNetV3Small"])
def test_backbones_prepare_their_own_pixels(backbone, tmp_path):
    model = build_model(4, 32, backbone, weights=None)
    scores = model(IMAGES).numpy()
    assert scores.shape == (2, 4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(IMAGES), scores, atol=1e-6)

    module = {
        "MobileNetV2": keras.applications.mobilenet_v2,
        "VGG16": keras.applications.vgg16,
        "MobileNetV3Small": keras.applications.mobilenet_v3,
    }[backbone]
    features = keras.Model(model.input, model.get_layer("pooling").input)
    expected = model.get_layer("backbone")(module.preprocess_input(IMAGES.copy()))
    np.testing.assert_allclose(features(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_weights_are_loaded_from_a_file(tmp_path):
    original = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    path = str(tmp_path / "mobilenet.weights.h5")
    original.save_weights(path)
    model = build_model(4, 32, "MobileNetV2", "block_2_add", weights=path)
    backbone = model.get_layer("backbone")
    assert backbone.layers[-1].name == "block_2_add"
    expected = keras.Model(original.input, original.get_layer("block_2_add").output)(
        IMAGES
    )
    np.testing.assert_allclose(backbone(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_fine_tuning_keeps_the_statistics_of_batch_normalization():
    model = build_model(10, 32, "MobileNetV2", "block_2_add", weights=None)
    backbones.set_trainable(model.get_layer("backbone"), share=1)
    config = Config(data="digits", image_size=32, batch_size=16)
    compile_model(model, config, 1e-2)
    splits, _ = load_examples("digits", 0.1, 0)
    batches = make_batches(splits["train"][np.arange(32)], config, 10, training=True)
    backbone = model.get_layer("backbone")
    before = {v.path: v.numpy() for v in backbone.variables}
    model.fit(batches, verbose=0)
    changed = {
        v.path.split("/")[-2]
        for v in backbone.variables
        if not np.array_equal(before[v.path], v.numpy())
    }
    assert "block_2_project" in changed
    assert not any("BN" in name or "bn" in name for name in changed)


def test_options_of_the_training(photos, tmp_path):
    """Mixed precision, class weights, early stopping; the answers are in float32."""
    config = dataclasses.replace(
        digits(),
        data=str(photos),
        image_size=16,
        epochs=1,
        precision="mixed_bfloat16",
        class_weights=True,
        patience=1,
        color=0.1,
    )
    try:
        train(config, tmp_path / "run")
    finally:
        keras.config.set_dtype_policy("float32")
    classifier = load_classifier(tmp_path / "run")
    assert classifier.model.get_layer("backbone").compute_dtype == "float32"
    trained = keras.saving.load_model(tmp_path / "run/model.keras", compile=False)
    images = IMAGES[:, :16, :16]
    np.testing.assert_allclose(classifier.model(images), trained(images), atol=0.05)


def test_grad_cam_of_a_linear_head_is_what_numpy_computes(run, photos):
    model = load_classifier(run).model
    encoded = (photos / "red/red_0.jpg").read_bytes()
    heat = grad_cam(model, encoded)

    from apps.image_classification.edge import prepare

    backbone = model.get_layer("backbone")
    features = backbone(prepare(encoded, 24) / 127.5 - 1)[0].numpy()
    normalization, head = model.get_layer("normalization"), model.get_layer("scores")
    scale = normalization.gamma.numpy() / np.sqrt(
        normalization.moving_variance.numpy() + normalization.epsilon
    )
    best = model(prepare(encoded, 24)).numpy().argmax()
    # The mean over positions has the same gradient everywhere.
    expected = np.maximum(features @ (scale * head.kernel.numpy()[:, best]), 0)
    assert heat.shape == features.shape[:2]
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-4)
