import io

import keras
import numpy as np
import pytest
from PIL import Image

from apps.common import backbones, runs
from apps.semantic_segmentation.config import Config
from apps.semantic_segmentation.data import decode_mask
from apps.semantic_segmentation.model import (
    Segmenter,
    build_model,
    dilate,
    load_segmenter,
    make_crf,
    windowed,
)
from apps.semantic_segmentation.train import train
from tests.apps.semantic_segmentation.conftest import draw, small, write
from tests.conftest import picture

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")


@pytest.mark.parametrize("backbone", ["MobileNetV2", "small_resnet"])
@pytest.mark.parametrize("name", ["deeplab", "fcn"])
def test_every_pixel_gets_a_score_of_each_class(name, backbone):
    model = build_model(5, name, backbone, weights=None)
    logits = model(IMAGES)
    assert logits.shape == (2, 64, 96, 5)
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0
    assert model(IMAGES[:, :32, :32]).shape == (2, 32, 32, 5)
    strides = [64 / output.shape[1] for output in features(model)]
    expected = {
        ("deeplab", "MobileNetV2"): [4, 8, 16],
        ("fcn", "MobileNetV2"): [4, 8, 16, 32],
    }.get((name, backbone), [2, 4, 8])
    assert strides == expected


def features(model):
    return model.get_layer("backbone")(IMAGES)


def test_pixels_are_prepared_for_the_backbone():
    model = build_model(3, "fcn", "MobileNetV2", weights=None)
    deepest = keras.Model(model.input, model.get_layer("dropout").input)
    prepared = keras.applications.mobilenet_v2.preprocess_input(IMAGES.copy())
    expected = model.get_layer("backbone")(prepared)[-1]
    np.testing.assert_allclose(deepest(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_a_dilated_mobilenet_computes_the_same_at_twice_the_resolution():
    shape = (None, None, 3)
    preprocess, original = backbones.load_backbone("MobileNetV2", shape, None)
    random = np.random.default_rng(0)
    # So that batch normalization does something.
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

    for layer in ("block_12_add", "block_13_expand_relu"):
        expected = output(original, layer)
        assert expected.shape[1:3] == (4, 6)
        np.testing.assert_allclose(output(dilated, layer), expected, atol=1e-6)
    for layer in ("block_13_depthwise", "block_14_add", "block_16_project_BN"):
        fine, coarse = output(dilated, layer), output(original, layer)
        assert fine.shape[1:3] == (4, 6)
        assert coarse.shape[1:3] == (2, 3)
        assert coarse.std() > 0
        # There the strided convolutions look, which see nothing of the rest.
        tolerance = 1e-4 * np.abs(coarse).max()
        np.testing.assert_allclose(fine[:, 1::2, 1::2], coarse, atol=tolerance)


def encode(image, format="PNG"):
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


SIZES = [(56, 40), (30, 90), (200, 150), (5, 7), (64, 64), (1, 33)]
ENCODED = [
    *(encode(picture((200, 120, 60), i, size)) for i, size in enumerate(SIZES)),
    encode(draw(30)[0], "JPEG"),
]


@pytest.mark.parametrize("signature", ["serving_default", "with_crf"])
def test_masks_are_as_large_as_their_images(run, signature):
    answers = load_segmenter(run).predictor(signature)(ENCODED)
    assert set(answers) == {"mask_bytes", "classes", "shares"}
    names = np.array([b"ground", b"disc", b"box"])
    for i, encoded in enumerate(ENCODED):
        mask = decode_mask(answers["mask_bytes"][i])
        with Image.open(io.BytesIO(encoded)) as image:
            assert mask.shape == image.size[::-1]
        shares = np.bincount(mask.ravel(), minlength=3) / mask.size
        np.testing.assert_allclose(answers["shares"][i], shares, atol=1e-6)
        expected = np.where(shares > 0, names, b"")
        assert answers["classes"][i].tolist() == expected.tolist()


def test_an_image_is_answered_alike_alone_and_among_others(run):
    predict = load_segmenter(run).predictor("with_crf")
    together = predict(ENCODED)["mask_bytes"]
    for encoded, among_others in zip(ENCODED, together, strict=True):
        alone = decode_mask(predict([encoded])["mask_bytes"][0])
        assert (alone == decode_mask(among_others)).mean() > 0.999


def test_a_picture_is_segmented_as_it_was_drawn(run):
    image, mask = draw(30)
    predict = load_segmenter(run).predictor()
    answer = decode_mask(predict([encode(image)])["mask_bytes"][0])
    known = np.array(mask) != 255
    assert (answer == mask)[known].mean() > 0.95


def test_the_tensors_signature_gives_probabilities(run):
    segmenter = load_segmenter(run)
    images = IMAGES[:, :64, :64]
    scores = segmenter.tensors(images)["scores"].numpy()
    expected = keras.ops.softmax(segmenter.network(images))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=1e-5)


def test_a_crf_without_weights_changes_nothing(run):
    trained = load_segmenter(run)
    plain = trained.predictor()(ENCODED)["mask_bytes"]
    refined = trained.predictor("with_crf")(ENCODED)["mask_bytes"]
    assert any(
        (decode_mask(one) != decode_mask(other)).any()
        for one, other in zip(plain, refined, strict=True)
    )
    crf = make_crf(Config(""), appearance_weight=0.0, smoothness_weight=0.0)
    crf.build([(None, None, None, 3), (None, None, None, 3)])
    without = Segmenter(trained.network, crf, trained.image_size, trained.classes)
    assert without.predictor("with_crf")(ENCODED)["mask_bytes"].tolist() == list(plain)


def test_the_crf_for_devices_has_the_same_weights(run):
    crf = load_segmenter(run).crf
    crf.support.assign(np.arange(9).reshape(3, 3))
    crf.appearance.assign(7.0)
    twin = windowed(crf)
    assert (twin.method, crf.method) == ("windowed", "lattice")
    assert twin.position_sigma == crf.position_sigma
    for mine, theirs in zip(twin.get_weights(), crf.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_crf_trained_end_to_end_keeps_its_weights(tmp_path):
    write(tmp_path / "data", range(6))
    config = small(
        tmp_path / "data",
        model="fcn",
        epochs=1,
        held_out="none",
        crf_epochs=1,
        crf_learning_rate=0.05,
        compatibility="learned",
        iterations=2,
    )
    run = tmp_path / "run"
    assert train(config, run)["best_epoch"] == 2
    trained = keras.saving.load_model(run / "model.keras", compile=False)
    # What a search finds is for networks trained without their CRF.
    runs.write_json(run / "crf.json", {"appearance_weight": 99.0})
    segmenter = load_segmenter(run)
    support = segmenter.crf.support.numpy()
    assert np.abs(support - np.eye(3)).max() > 0.01
    assert float(segmenter.crf.appearance) not in (4.0, 99.0)
    images = IMAGES[:, :64, :64]
    logits = segmenter.network(images)
    refined = segmenter.crf([logits, images])
    np.testing.assert_allclose(refined, trained(images), rtol=1e-3, atol=1e-3)
    assert np.abs(refined - logits).max() > 0.1


def test_mixed_precision_answers_in_float32(tmp_path):
    write(tmp_path / "data", range(6))
    config = small(tmp_path / "data", model="fcn", epochs=1, precision="mixed_bfloat16")
    try:
        train(config, tmp_path / "run")
    finally:
        keras.config.set_dtype_policy("float32")
    segmenter = load_segmenter(tmp_path / "run")
    assert keras.config.dtype_policy().name == "float32"
    assert segmenter.network.get_layer("scores").compute_dtype == "float32"
    trained = keras.saving.load_model(tmp_path / "run/model.keras", compile=False)
    images = IMAGES[:, :64, :64]
    np.testing.assert_allclose(segmenter.network(images), trained(images), atol=0.1)
