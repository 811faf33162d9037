import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common import runs
from apps.semantic_segmentation.data import decode_mask
from apps.semantic_segmentation.model import build_crf
from apps.semantic_segmentation.signatures import Segmenter, load_run
from apps.semantic_segmentation.train import train
from tests.apps.semantic_segmentation.shapes import (
    CLASSES,
    draw,
    random_network,
    small,
    write,
    write_run,
)

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
SIZES = [(56, 40), (30, 90), (200, 150), (5, 7), (64, 64), (1, 33)]


def encode(image, format="PNG"):
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


@pytest.fixture(scope="module")
def encoded_images():
    image, _ = draw(30)
    resized = [encode(image.resize(size)) for size in SIZES]
    return [*resized, encode(image, "JPEG")]


@pytest.fixture(scope="module")
def network():
    return random_network()


@pytest.fixture(scope="module")
def segmenter(network):
    crf = build_crf(num_classes=3, iterations=2)
    return Segmenter(network, crf, (64, 64), CLASSES)


def ask(segmenter, encoded_images, signature="serving_default"):
    answers = segmenter.signatures[signature](tf.constant(encoded_images))
    masks = [decode_mask(each) for each in answers["mask_bytes"].numpy()]
    return masks, answers["classes"].numpy(), answers["pixel_fractions"].numpy()


@pytest.mark.parametrize("signature", ["serving_default", "with_crf"])
def test_masks_have_the_size_of_their_images(segmenter, encoded_images, signature):
    answers = zip(*ask(segmenter, encoded_images, signature), strict=True)
    class_names = np.array([b"ground", b"disc", b"box"])
    for encoded, (mask, names, fractions) in zip(encoded_images, answers, strict=True):
        with Image.open(io.BytesIO(encoded)) as image:
            assert mask.shape == image.size[::-1]
        expected = np.bincount(mask.ravel(), minlength=3) / mask.size
        np.testing.assert_allclose(fractions, expected, atol=1e-6)
        assert names.tolist() == np.where(expected > 0, class_names, b"").tolist()


def test_an_image_has_the_same_answer_alone_and_in_a_batch(segmenter, encoded_images):
    together, _, _ = ask(segmenter, encoded_images, "with_crf")
    for encoded, expected in zip(encoded_images, together, strict=True):
        (alone,), _, _ = ask(segmenter, [encoded], "with_crf")
        assert (alone == expected).mean() > 0.999


def test_tensors_are_answered_with_masks_and_mean_scores(segmenter):
    answers = segmenter.signatures["tensors"](PIXELS)
    logits = segmenter.network(PIXELS)
    expected = keras.ops.softmax(logits).numpy()
    expected = expected.reshape(2, 8, 8, 8, 8, 3).mean((2, 4))
    np.testing.assert_allclose(answers["scores"], expected, atol=1e-5)
    masks = [decode_mask(each) for each in answers["mask_bytes"].numpy()]
    np.testing.assert_array_equal(masks, np.argmax(logits, -1))


def test_a_crf_with_zero_weights_changes_nothing(network, segmenter, encoded_images):
    crf = build_crf(num_classes=3, appearance_weight=0.0, smoothness_weight=0.0)
    without = Segmenter(network, crf, (64, 64), CLASSES)
    plain, _, _ = ask(segmenter, encoded_images)
    refined, _, _ = ask(segmenter, encoded_images, "with_crf")
    unchanged, _, _ = ask(without, encoded_images, "with_crf")
    for mask, other in zip(plain, unchanged, strict=True):
        np.testing.assert_array_equal(mask, other)
    assert any((a != b).any() for a, b in zip(plain, refined, strict=True))


def test_a_segmenter_without_a_crf_has_no_signature_for_it(network):
    segmenter = Segmenter(network, None, (64, 64), CLASSES)
    assert set(segmenter.signatures) == {"serving_default", "tensors"}
    assert len(segmenter.variables) == len(network.variables)


def test_a_run_has_the_crf_of_a_search_or_of_its_configuration(network, tmp_path):
    write_run(tmp_path, small("", color_sigma=5.0), network)
    assert load_run(tmp_path).crf.color_sigma == 5
    runs.write_json(tmp_path / "crf.json", {"color_sigma": 7.0})
    segmenter = load_run(tmp_path, image_size=(64, 96))
    assert segmenter.crf.color_sigma == 7
    assert segmenter.image_size == (64, 96)
    assert segmenter.classes == CLASSES


def test_a_crf_trained_end_to_end_keeps_its_weights(tmp_path):
    write(tmp_path / "data", range(8))
    config = small(
        tmp_path / "data",
        architecture="fcn",
        epochs=1,
        validation_prefix="none",
        crf_epochs=1,
        crf_learning_rate=0.05,
        compatibility="learned",
        iterations=2,
    )
    run = tmp_path / "run"
    assert train(config, run)["best_epoch"] == 2
    trained = keras.saving.load_model(run / "model.keras", compile=False)
    runs.write_json(run / "crf.json", {"appearance_weight": 99.0})
    segmenter = load_run(run)
    assert segmenter.is_crf_trained
    assert np.abs(segmenter.crf.support - np.eye(3)).max() > 0.01
    assert float(segmenter.crf.appearance) not in (4.0, 99.0)
    logits = segmenter.network(PIXELS)
    refined = segmenter.crf([logits, PIXELS])
    np.testing.assert_allclose(refined, trained(PIXELS), rtol=1e-3, atol=1e-3)
    assert np.abs(refined - logits).max() > 0.1


def test_a_run_in_mixed_precision_answers_in_float32(tmp_path):
    with runs.dtype_policy("mixed_bfloat16"):
        trained = random_network()
    write_run(
        tmp_path, small("", architecture="fcn", precision="mixed_bfloat16"), trained
    )
    network = load_run(tmp_path).network
    assert trained.get_layer("scores").compute_dtype == "bfloat16"
    assert network.get_layer("scores").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    np.testing.assert_allclose(network(PIXELS), trained(PIXELS), rtol=0.1, atol=0.1)
