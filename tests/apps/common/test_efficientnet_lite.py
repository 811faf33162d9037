import collections
import io
import pickle

import keras
import numpy as np
import pytest

from apps.common import efficientnet_lite, saved_models


def test_the_installed_weights_give_the_features_of_the_original():
    model = efficientnet_lite.efficientnet_lite0((None, None, 3))
    efficientnet_lite.load_imagenet_weights(model)
    images = np.random.RandomState(0).randn(1, 224, 224, 3).astype("float32")
    features = model(images).numpy()
    assert features.shape == (1, 7, 7, 1280)
    # Computed with PyTorch.
    np.testing.assert_allclose(features.mean(), 0.10184524, rtol=1e-4)
    expected = [0.1376727, 0, 2.103007]
    np.testing.assert_allclose(features[0, :, :, :3].mean((0, 1)), expected, rtol=1e-4)


def test_weights_come_from_a_file_by_their_names(tmp_path):
    original = efficientnet_lite.efficientnet_lite0((32, 32, 3))
    arrays = {variable.path: variable.numpy() for variable in original.weights}
    assert next(iter(arrays)) == "stem_conv/kernel"
    assert arrays["block0_depthwise_conv/kernel"].shape == (3, 3, 32, 1)
    np.savez(tmp_path / "weights.npz", **dict(reversed(arrays.items())))
    model = efficientnet_lite.efficientnet_lite0((None, None, 3))
    efficientnet_lite.load_weights(model, tmp_path / "weights.npz")
    for variable in model.weights:
        np.testing.assert_array_equal(variable, arrays[variable.path])


def test_pixels_are_scaled_as_in_the_pretraining():
    pixels = np.array([0, 127, 255])
    scaled = efficientnet_lite.preprocess_input(pixels)
    np.testing.assert_allclose(scaled, [-127 / 128, 0, 1])


def test_batch_normalization_is_folded_into_every_convolution():
    model = efficientnet_lite.efficientnet_lite0((32, 32, 3))
    random = np.random.default_rng(0)
    # Otherwise batch normalization would change nothing.
    model.set_weights(
        [
            random.uniform(0.8, 1.2, w.shape) if w.ndim == 1 else w
            for w in model.get_weights()
        ]
    )
    folded = saved_models.fold_batch_normalization(model)
    normalizations = [
        layer
        for layer in folded.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert normalizations == []
    images = random.normal(size=(2, 32, 32, 3)).astype("float32")
    expected = model(images).numpy()
    assert expected.std() > 0
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(folded(images), expected, atol=tolerance)


def test_nothing_but_tensors_is_unpickled():
    objects = [1, 2, 3, collections.Counter("ab"), []]
    file = io.BytesIO(b"".join(map(pickle.dumps, objects)))
    with pytest.raises(pickle.UnpicklingError, match=r"collections\.Counter is no ten"):
        efficientnet_lite.read_tensors(file)
