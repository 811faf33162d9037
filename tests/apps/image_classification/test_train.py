import dataclasses
import json

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from apps.common import datasets, runs
from apps.image_classification import linear_head
from apps.image_classification.data import load_examples, make_batches
from apps.image_classification.signatures import load_run
from apps.image_classification.train import beats_head, train


def test_a_training_in_mixed_precision_gives_a_model_in_float32(config, tmp_path):
    """Class weights, early stopping and colour jitter are used as well."""
    config = dataclasses.replace(
        config,
        image_size=16,
        epochs=1,
        precision="mixed_bfloat16",
        class_weights=True,
        patience=1,
        color=0.1,
    )
    train(config, tmp_path / "run")
    assert keras.config.dtype_policy().name == "float32"
    classifier = load_run(tmp_path / "run")
    assert keras.config.dtype_policy().name == "float32"
    assert classifier.model.get_layer("pooling").compute_dtype == "float32"
    trained = keras.saving.load_model(tmp_path / "run/model.keras", compile=False)
    assert trained.get_layer("pooling").compute_dtype == "bfloat16"
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(classifier.model(images), trained(images), atol=0.05)


@pytest.fixture
def pretrained(config):
    """The settings of a training that starts from ImageNet's weights."""
    return dataclasses.replace(
        config,
        image_size=32,
        backbone="EfficientNetLite0",
        resize="crop",
        weights="imagenet",
        validation_fraction=0.3,
        epochs=1,
    )


def test_without_epochs_the_head_is_a_logistic_regression(pretrained, tmp_path, capsys):
    """It is fitted on the training and the validation images together."""
    config = dataclasses.replace(pretrained, epochs=0, flip=False)
    summary = train(config, tmp_path / "run")
    assert summary["best_epoch"] == summary["epochs"] == 1
    assert "the linear head is kept" in capsys.readouterr().out
    model = load_run(tmp_path / "run").model
    splits = load_examples(config)
    both = datasets.join([splits["train"], splits["validation"]])
    extract = keras.Model(model.input, model.get_layer("pooling").output)
    features = extract.predict(make_batches(both, config), verbose=0)
    scores = model.predict(make_batches(both, config), verbose=0)
    differences = [
        LogisticRegression(C=strength, max_iter=500)
        .fit(features, both.labels)
        .predict_proba(features)
        - scores
        for strength in (0.01, 0.03, 0.1, 0.3, 1, 3)
    ]
    assert np.abs(differences).max(axis=(1, 2)).min() < 1e-3


def test_the_head_is_the_first_epoch_and_has_a_baseline(pretrained, tmp_path, capsys):
    run = tmp_path / "run"
    train(pretrained, run)
    head, _, average = runs.read_history(run)
    assert {"accuracy", "log_loss", "val_accuracy", "val_log_loss"} <= head.keys()
    assert {"val_accuracy", "val_log_loss"} <= average.keys()
    baseline = json.loads((run / "baseline.json").read_text())
    assert baseline["name"] == "logistic regression on frozen features"
    assert 0 <= baseline["validation"]["accuracy"] <= 1
    assert 0 <= baseline["test"]["macro_recall"] <= 1
    printed = capsys.readouterr().out
    assert "baseline on validation: accuracy" in printed
    assert "(logistic regression on frozen features)" in printed.splitlines()[-1]


def test_a_worse_epoch_does_not_replace_the_head(pretrained, tmp_path):
    destructive = dataclasses.replace(pretrained, learning_rate=0.5, epochs=2)
    summary = train(destructive, tmp_path / "run")
    assert summary["best_epoch"] == 1
    assert summary["epochs"] == 4


def test_fine_tuning_must_clearly_beat_the_head(pretrained, tmp_path):
    run = tmp_path / "run"
    train(dataclasses.replace(pretrained, epochs=0), run)
    splits = load_examples(pretrained)
    features = linear_head.load_features(load_run(run).model, splits, pretrained, run)
    views, labels = (
        np.concatenate([features[s][i] for s in ("train", "validation")])
        for i in (0, 1)
    )
    same = linear_head.fit(views, labels, is_balanced=False)
    worse = LogisticRegression().fit(views[:, 0], np.roll(labels, 5))
    arguments = (features, splits["validation"], pretrained, run)
    assert not beats_head(same, *arguments)
    assert beats_head(worse, *arguments)
