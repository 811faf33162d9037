import keras
import numpy as np
import pytest

from apps.semantic_segmentation.model import (
    add_crf,
    build_crf,
    build_model,
    to_windowed,
)

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")


def build(**settings):
    defaults = {
        "num_classes": 5,
        "architecture": "deeplab",
        "backbone": "MobileNetV2",
        "weights": None,
        "dropout": 0.1,
    }
    return build_model(**{**defaults, **settings})


@pytest.mark.parametrize(
    ("architecture", "backbone", "strides"),
    [
        ("deeplab", "MobileNetV2", [4, 8, 16]),
        ("deeplab", "EfficientNetLite0", [4, 8, 16]),
        ("deeplab", "small_resnet", [2, 4, 8]),
        ("fcn", "MobileNetV2", [4, 8, 16, 32]),
        ("fcn", "EfficientNetLite0", [4, 8, 16, 32]),
        ("fcn", "small_resnet", [2, 4, 8]),
    ],
)
def test_every_pixel_gets_a_score_of_each_class(architecture, backbone, strides):
    model = build(architecture=architecture, backbone=backbone)
    logits = model(IMAGES)
    assert logits.shape == (2, 64, 96, 5)
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0
    assert model(IMAGES[:, :32, :32]).shape == (2, 32, 32, 5)
    check_strides(model, strides)


def check_strides(model, strides):
    features = model.get_layer("backbone")(IMAGES)
    assert [64 / output.shape[1] for output in features] == strides


def test_pixels_are_prepared_for_the_backbone():
    model = build(architecture="fcn")
    deepest = keras.Model(model.input, model.get_layer("dropout").input)
    prepared = keras.applications.mobilenet_v2.preprocess_input(IMAGES.copy())
    expected = model.get_layer("backbone")(prepared)[-1]
    np.testing.assert_allclose(deepest(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_a_crf_refines_the_logits_of_a_model():
    model = build(architecture="fcn", backbone="small_resnet")
    crf = build_crf(num_classes=5, iterations=2, appearance_weight=50.0)
    logits, refined = model(IMAGES), add_crf(model, crf)(IMAGES)
    np.testing.assert_allclose(refined, crf([logits, IMAGES]), rtol=1e-4, atol=1e-4)
    assert np.abs(refined - logits).max() > 0.1


def test_the_windowed_crf_has_the_same_settings_and_weights():
    crf = build_crf(num_classes=3, position_sigma=7.0, compatibility="learned")
    crf.support.assign(np.arange(9).reshape(3, 3))
    crf.appearance.assign(7.0)
    windowed = to_windowed(crf)
    expected = {**crf.get_config(), "method": "windowed"}
    assert windowed.get_config() == expected
    for ours, theirs in zip(windowed.get_weights(), crf.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
