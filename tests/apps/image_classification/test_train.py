import dataclasses

import keras
import numpy as np

from apps.image_classification.signatures import load_run
from apps.image_classification.train import train


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
    assert classifier.model.get_layer("normalization").compute_dtype == "float32"
    trained = keras.saving.load_model(tmp_path / "run/model.keras", compile=False)
    assert trained.get_layer("normalization").compute_dtype == "bfloat16"
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(classifier.model(images), trained(images), atol=0.05)
