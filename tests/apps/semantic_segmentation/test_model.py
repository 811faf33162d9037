import keras
import numpy as np
import pytest

from apps.common import backbones
from apps.common.errors import BadInput
from apps.semantic_segmentation.model import (
    add_crf,
    build_crf,
    build_model,
    dilate,
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


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A folder of KerasHub's presets with random weights: `resnet` and `vgg`."""
    import keras_hub

    folder = tmp_path_factory.mktemp("presets")
    resnet = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    )
    resnet.save_to_preset(folder / "resnet")
    vgg = keras_hub.models.VGGBackbone([1, 1], [8, 8], image_shape=(None, None, 3))
    vgg.save_to_preset(folder / "vgg")
    return folder


@pytest.mark.parametrize("architecture", ["deeplab", "fcn"])
def test_presets_of_keras_hub_give_their_pyramid(presets, architecture):
    preset = f"hub:{presets / 'resnet'}"
    model = build(architecture=architecture, backbone=preset, weights="imagenet")
    assert model(IMAGES).shape == (2, 64, 96, 5)
    check_strides(model, [4, 8, 16, 32])


def test_other_backbones_are_refused(presets):
    with pytest.raises(BadInput, match="did you mean 'MobileNetV2'"):
        build(backbone="MobilNetV2")
    with pytest.raises(BadInput, match="VGG16 is no encoder of a segmenter"):
        build(backbone="VGG16")
    with pytest.raises(BadInput, match="vgg has no pyramid outputs"):
        build(backbone=f"hub:{presets / 'vgg'}")


def test_pixels_are_prepared_for_the_backbone():
    model = build(architecture="fcn")
    deepest = keras.Model(model.input, model.get_layer("dropout").input)
    prepared = keras.applications.mobilenet_v2.preprocess_input(IMAGES.copy())
    expected = model.get_layer("backbone")(prepared)[-1]
    np.testing.assert_allclose(deepest(IMAGES), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "kept", "dilated_layers"),
    [
        (
            "MobileNetV2",
            ["block_12_add", "block_13_expand_relu"],
            ["block_13_depthwise", "block_14_add", "block_16_project_BN"],
        ),
        (
            "EfficientNetLite0",
            ["block10_add", "block11_expand_relu"],
            ["block11_depthwise_conv", "block12_add", "block15_project_bn"],
        ),
    ],
)
def test_a_dilated_backbone_computes_the_same_at_twice_the_resolution(
    backbone, kept, dilated_layers
):
    preprocess, original = backbones.load_backbone(backbone, (None, None, 3), None)
    random = np.random.default_rng(0)
    # Otherwise batch normalization would change nothing.
    original.set_weights(
        [
            random.uniform(0.8, 1.2, w.shape) if w.ndim == 1 else w
            for w in original.get_weights()
        ]
    )
    dilated = dilate(original)
    for mine, theirs in zip(dilated.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)

    def output(model, layer):
        part = keras.Model(model.input, model.get_layer(layer).output)
        return part(preprocess(IMAGES.copy())).numpy()

    for layer in kept:
        expected = output(original, layer)
        assert expected.shape[1:3] == (4, 6)
        np.testing.assert_allclose(output(dilated, layer), expected, atol=1e-6)
    for layer in dilated_layers:
        fine, coarse = output(dilated, layer), output(original, layer)
        assert fine.shape[1:3] == (4, 6)
        assert coarse.shape[1:3] == (2, 3)
        assert coarse.std() > 0
        # The strided convolutions compute only these positions.
        tolerance = 1e-4 * np.abs(coarse).max()
        np.testing.assert_allclose(fine[:, 1::2, 1::2], coarse, atol=tolerance)


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
