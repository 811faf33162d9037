import keras
import numpy as np
import pytest

from apps.common import backbones
from apps.common.errors import BadInput
from apps.common.feature_maps import dilate, load_encoder

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")


def check_strides(encoded, expected):
    preprocess, encoder, strides = encoded
    maps = encoder(preprocess(IMAGES.copy()))
    assert strides == expected
    assert [64 / each.shape[1] for each in maps] == expected
    assert all(np.std(each) > 0 for each in maps)


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        ("MobileNetV2", [4, 8, 16, 32]),
        ("EfficientNetLite0", [4, 8, 16, 32]),
        ("small_resnet", [2, 4, 8]),
    ],
)
def test_an_encoder_has_maps_of_several_resolutions(backbone, strides):
    check_strides(load_encoder(backbone, None), strides)
    coarse = [stride for stride in strides if stride >= 4]
    check_strides(load_encoder(backbone, None, min_stride=4), coarse)


@pytest.mark.parametrize("backbone", ["MobileNetV2", "EfficientNetLite0"])
def test_a_dilated_encoder_ends_at_stride_16(backbone):
    check_strides(load_encoder(backbone, None, is_dilated=True), [4, 8, 16])


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


def test_presets_of_keras_hub_give_their_pyramid(presets):
    encoded = load_encoder(f"hub:{presets / 'resnet'}", "imagenet")
    check_strides(encoded, [4, 8, 16, 32])


def test_other_backbones_are_refused(presets):
    with pytest.raises(BadInput, match="did you mean 'MobileNetV2'"):
        load_encoder("MobilNetV2", None)
    with pytest.raises(BadInput, match="VGG16 has no feature maps of several"):
        load_encoder("VGG16", None)
    with pytest.raises(BadInput, match="vgg has no pyramid outputs"):
        load_encoder(f"hub:{presets / 'vgg'}", None)


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
