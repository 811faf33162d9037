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
    of_noise = linear_head.fit(noise[:, None], labels, False)
    of_signal = linear_head.fit(signal[:, None], labels, False)
    assert of_noise.C < of_signal.C


def test_the_same_view_twice_changes_nothing():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 1, 8)) + labels[:, None, None]
    once = linear_head.fit(features, labels, False)
    twice = linear_head.fit(np.repeat(features, 2, axis=1), labels, False)
    np.testing.assert_allclose(twice.coef_, once.coef_, atol=1e-3)


def test_an_image_is_held_out_with_all_its_views():
    """A second view that tells the class must not help where it is not seen."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 2, 30))
    alone = linear_head.cross_validate(features[:, :1], labels, 1.0)
    features[:, 1] = features[:, 0]
    together = linear_head.cross_validate(features, labels, 1.0)
    np.testing.assert_allclose(together, alone, atol=1e-2)
    assert together.shape == (40,)
    # A class with one example is left out.
    losses = linear_head.cross_validate(features[:5], np.array([0, 1, 0, 1, 2]), 1.0)
    assert losses.shape == (4,)


def test_the_losses_are_those_of_the_classes():
    scores = np.array([[0.25, 0.75], [1.0, 0.0]])
    losses = linear_head.log_losses(scores, np.array([1, 0]))
    np.testing.assert_allclose(losses, [-np.log(0.75), 0], atol=1e-6)
    assert np.isfinite(linear_head.log_losses(scores, np.array([0, 1]))).all()


def test_the_first_features_are_kept_unless_others_are_clearly_better(
    examples, config, monkeypatch
):
    def load_available(names, input_shape, weights):
        return {name: load(seeing) for name in names}, {}

    monkeypatch.setattr(backbones, "load_available", load_available)
    settings = {"backbone": "auto", "resize": "crop", "weights": "imagenet"}
    config = dataclasses.replace(config, **settings)
    rng = np.random.default_rng(0)
    for gain, expected in ((0.05, "EfficientNetLite0"), (1.0, "MobileNetV2")):
        losses = [rng.normal(2 - gain, 1, 50), rng.normal(2, 1, 50)]
        monkeypatch.setattr(linear_head, "cross_validate", lambda *_, x=losses: x.pop())
        assert linear_head.choose(config, examples).backbone == expected


def test_mirror_images_are_second_views(config, examples):
    inputs = keras.Input(SHAPE)
    first_column = keras.Model(inputs, inputs[:, :, 0, 0])
    last_column = keras.Model(inputs, inputs[:, :, -1, 0])
    config = dataclasses.replace(config, resize="squash")
    views = linear_head.extract(first_column, examples, config, is_mirrored=True)
    assert views.shape == (len(examples), 2, SHAPE[0])
    plain = linear_head.extract(first_column, examples, config)
    np.testing.assert_array_equal(plain[:, 0], views[:, 0])
    other_side = linear_head.extract(last_column, examples, config)
    np.testing.assert_array_equal(other_side[:, 0], views[:, 1])


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
    assert pixels.shape == (6, 1, 16 * 16 * 3)
    assert 0 <= pixels.min() < pixels.max() <= 1
    np.testing.assert_array_equal(labels, splits["test"].labels)
    monkeypatch.delattr(linear_head, "extract")
    again = linear_head.load_features(model, splits, config, tmp_path)
    for split in splits:
        for part, expected in zip(again[split], parts[split], strict=True):
            np.testing.assert_array_equal(part, expected)
