import keras
import numpy as np
import pytest

from apps.common import backbones
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


def test_weights_come_from_a_file(tmp_path):
    _, original = backbones.load_backbone("MobileNetV2", (32, 32, 3), None)
    path = str(tmp_path / "mobilenet.weights.h5")
    original.save_weights(path)
    _, loaded = backbones.load_backbone("MobileNetV2", (None, None, 3), path)
    for mine, theirs in zip(loaded.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(BadInput, match=r"mobilenet\.weights\.h5 does not fit VGG16"):
        backbones.load_backbone("VGG16", (32, 32, 3), path)


@pytest.mark.parametrize(
    ("name", "shape", "weights", "message"),
    [
        ("MobilNetV2", (32, 32, 3), None, "did you mean 'MobileNetV2'"),
        ("smal_resnet", (32, 32, 3), None, "did you mean 'small_resnet'"),
        ("VGG16", (32, 32, 3), "nowhere.h5", r"nowhere\.h5 is no file"),
        ("VGG16", (16, 16, 3), None, "--image-size 16 does not suit VGG16"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, shape, weights, message):
    with pytest.raises(BadInput, match=message):
        backbones.load_backbone(name, shape, weights)


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
