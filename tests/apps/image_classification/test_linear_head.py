import dataclasses

import keras
import numpy as np
import pytest

from apps.common import backbones, runs
from apps.common.errors import BadInput
from apps.image_classification import linear_head
from apps.image_classification.data import load_examples
from apps.image_classification.model import build_model

SHAPE = (24, 24, 3)


@pytest.fixture
def examples(config):
    return load_examples(config)["train"]


def blind(inputs):
    """Returns the same features for every image."""
    return 0 * inputs


def seeing(inputs):
    return inputs / 255


def load(features):
    inputs = keras.Input(SHAPE)
    return lambda pixels: pixels, keras.Model(inputs, features(inputs))


def test_regularization_is_stronger_for_noise():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    noise = rng.normal(size=(80, 200))
    signal = np.concatenate([20 * labels[:, None], noise], axis=1)
    of_noise = linear_head.fit(noise, labels, False)
    of_signal = linear_head.fit(signal, labels, False)
    assert of_noise.C < of_signal.C


def test_auto_takes_the_features_that_tell_classes_apart(
    examples, config, monkeypatch, capsys
):
    def load_available(names, input_shape, weights):
        assert input_shape == SHAPE
        first, second = names
        return {first: load(blind), second: load(seeing)}, {}

    monkeypatch.setattr(backbones, "load_available", load_available)
    config = dataclasses.replace(
        config, backbone="auto", resize="auto", weights="imagenet"
    )
    chosen = linear_head.choose(config, examples)
    assert chosen.backbone == "MobileNetV2"
    assert chosen.resize in ("crop", "pad", "squash")
    assert dataclasses.replace(chosen, backbone="auto", resize="auto") == config
    assert capsys.readouterr().out.count("cross-validated log loss") == 6


def test_backbones_that_cannot_be_loaded_are_named(
    examples, config, monkeypatch, capsys
):
    config = dataclasses.replace(config, backbone="auto", weights="imagenet")

    def load_available(names, input_shape, weights):
        return {names[1]: load(seeing)}, {names[0]: "no network"}

    monkeypatch.setattr(backbones, "load_available", load_available)
    assert linear_head.choose(config, examples).backbone == "MobileNetV2"
    assert "not compared: no network" in capsys.readouterr().err
    monkeypatch.setattr(backbones, "load_available", lambda *_: ({}, {}))
    with pytest.raises(BadInput, match="no backbone can be loaded; pass --weights"):
        linear_head.choose(config, examples)


def test_random_features_are_not_compared(examples, config):
    assert linear_head.choose(config, examples).resize == "crop"
    config = dataclasses.replace(config, backbone="auto")
    with pytest.raises(BadInput, match="--backbone auto compares pretrained features"):
        linear_head.choose(config, examples)


def test_an_interrupted_training_keeps_its_choice(config, tmp_path):
    chosen = dataclasses.replace(config, backbone="MobileNetV2", resize="pad")
    auto = dataclasses.replace(config, backbone="auto", resize="auto")
    assert runs.with_choices(auto, tmp_path) == auto
    runs.start(chosen, tmp_path, {})
    assert runs.finished(auto, tmp_path) is None
    assert runs.with_choices(auto, tmp_path) == chosen


def test_features_are_extracted_once(config, tmp_path, monkeypatch):
    splits = load_examples(config)
    model = build_model(
        num_classes=3,
        image_size=24,
        backbone="small_resnet",
        backbone_output=None,
        weights=None,
        dropout=0.0,
    )
    config = dataclasses.replace(config, resize="crop")
    parts = linear_head.load_features(model, splits, config, tmp_path)
    pixels, labels = parts["test"]
    assert pixels.shape == (6, 16 * 16 * 3)
    assert 0 <= pixels.min() < pixels.max() <= 1
    np.testing.assert_array_equal(labels, splits["test"].labels)
    monkeypatch.delattr(linear_head, "extract")
    again = linear_head.load_features(model, splits, config, tmp_path)
    for split in splits:
        for part, expected in zip(again[split], parts[split], strict=True):
            np.testing.assert_array_equal(part, expected)
