import keras
import numpy as np
import pytest

from apps.common import backbones, datasets
from apps.common.errors import BadInput
from apps.image_classification.config import Config
from apps.image_classification.data import load_examples, make_batches
from apps.image_classification.model import build_model
from apps.image_classification.train import compile_model

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


def build(backbone, **options):
    settings = {
        "num_classes": 4,
        "image_size": 32,
        "backbone_output": None,
        "weights": None,
        "dropout": 0.2,
    }
    return build_model(backbone=backbone, **{**settings, **options})


# Three ways to prepare pixels: scaled, as BGR without the mean, inside the backbone.
@pytest.mark.parametrize("backbone", ["MobileNetV2", "VGG16", "MobileNetV3Small"])
def test_backbones_prepare_their_own_pixels(backbone, tmp_path):
    model = build(backbone)
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
    model = build("MobileNetV2", backbone_output="block_2_add", weights=path)
    backbone = model.get_layer("backbone")
    assert backbone.layers[-1].name == "block_2_add"
    expected = keras.Model(original.input, original.get_layer("block_2_add").output)(
        IMAGES
    )
    np.testing.assert_allclose(backbone(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_layer_is_named():
    with pytest.raises(BadInput, match="no layer 'steam'; did you mean 'stem'"):
        build("small_resnet", backbone_output="steam")


def test_fine_tuning_keeps_the_statistics_of_batch_normalization():
    model = build("MobileNetV2", num_classes=10, backbone_output="block_2_add")
    backbone = model.get_layer("backbone")
    backbones.set_trainable(backbone, fraction=1)
    config = Config(data="digits", image_size=32, batch_size=16)
    compile_model(model, config, 1e-2)
    examples = datasets.take(load_examples(config)["train"], range(32))
    batches = make_batches(examples, config, training=True)
    before = {v.path: v.numpy() for v in backbone.variables}
    model.fit(batches, shuffle=False, verbose=0)
    changed = {
        v.path.split("/")[-2]
        for v in backbone.variables
        if not np.array_equal(before[v.path], v.numpy())
    }
    assert "block_2_project" in changed
    assert not any("BN" in name or "bn" in name for name in changed)
