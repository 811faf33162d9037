import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from apps.common import saved_models
from apps.object_detection.faster_rcnn import NUM_PROPOSALS
from apps.object_detection.model import build_model

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
MODELS = ("one_stage", "faster_rcnn")


def build(**settings):
    defaults = {
        "num_classes": 3,
        "model": "one_stage",
        "backbone": "small_resnet",
        "weights": None,
        "filters": 16,
        "num_bins": 8,
    }
    return build_model(**{**defaults, **settings})


def randomize(model):
    """Gives a model the weights of one that was trained."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        change = random.normal(0, 0.1, variable.shape)
        variable.assign(variable + np.abs(change))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        ("MobileNetV2", [8, 16, 32]),
        ("EfficientNetLite0", [8, 16, 32]),
        ("small_resnet", [4, 8]),
    ],
)
def test_every_point_has_a_box_and_scores(model, backbone, strides):
    network = build(model=model, backbone=backbone)
    outputs = network(IMAGES)
    sizes = [(2, 64 // stride, 96 // stride) for stride in strides]
    num_classes = 3 if model == "one_stage" else 1
    assert [x.shape for x in outputs["logits"]] == [(*s, num_classes) for s in sizes]
    assert [x.shape for x in outputs["bins"]] == [(*size, 32) for size in sizes]
    num_points = sum(height * width for _, height, width in sizes)
    assert outputs["boxes"].shape == (2, num_points, 4)
    assert network.get_layer("boxes").strides == strides
    # Other sizes work too.
    boxes, scores = network.candidates(IMAGES[:1, :32, :32])
    assert boxes.shape == (1, boxes.shape[1], 4)
    assert scores.shape == (1, boxes.shape[1], 3)


def test_candidates_of_one_stage_are_the_decoded_boxes_and_their_scores():
    network = build()
    randomize(network)
    boxes, scores = network.candidates(IMAGES)
    outputs = network(IMAGES)
    np.testing.assert_allclose(boxes, outputs["boxes"], rtol=1e-4, atol=1e-2)
    first = expit(outputs["logits"][0].numpy().reshape(2, -1, 3))
    np.testing.assert_allclose(scores[:, : first.shape[1]], first, rtol=1e-3)


def test_before_training_all_scores_are_low():
    _, scores = build().candidates(IMAGES)
    np.testing.assert_allclose(np.median(scores), 0.01, atol=0.01)


def test_faster_rcnn_answers_one_box_per_proposal():
    boxes, scores = build(model="faster_rcnn").candidates(IMAGES)
    assert boxes.shape == (2, NUM_PROPOSALS, 4)
    assert scores.shape == (2, NUM_PROPOSALS, 3)


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_reloads_and_trains_on(model, tmp_path):
    network = build(model=model)
    randomize(network)
    network.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    for answer, expected in zip(
        reloaded.candidates(IMAGES), network.candidates(IMAGES), strict=True
    ):
        np.testing.assert_array_equal(answer, expected)
    reloaded.compile("sgd", jit_compile=False)
    boxes = np.array([[[8, 8, 40, 40]]] * 2, "float32")
    targets = {"boxes": boxes, "classes": np.zeros((2, 1), "int32")}
    assert np.isfinite(reloaded.train_on_batch(IMAGES, targets))


@pytest.mark.parametrize("model", MODELS)
def test_batch_normalization_folds_without_changing_answers(model):
    network = build(model=model, backbone="MobileNetV2")
    randomize(network)
    folded = saved_models.fold_batch_normalization(network)
    assert type(folded) is type(network)
    assert not [
        layer
        for layer in folded._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    names = ("logits", "bins", "boxes")
    answers, expected = folded(IMAGES), network(IMAGES)
    for answer, each in zip(
        tf.nest.flatten([answers[name] for name in names]),
        tf.nest.flatten([expected[name] for name in names]),
        strict=True,
    ):
        scale = np.abs(each).max()
        np.testing.assert_allclose(answer, each, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("model", MODELS)
def test_mixed_precision_answers_in_single_precision(model):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network = build(model=model)
    finally:
        keras.config.set_dtype_policy("float32")
    boxes, scores = network.candidates(IMAGES)
    assert boxes.dtype == scores.dtype == "float32"
    assert np.isfinite(boxes).all()


def test_pixels_are_prepared_for_the_backbone():
    network = build(backbone="MobileNetV2")
    maps = keras.Model(network.input, network.get_layer("pyramid").input)(IMAGES)
    prepared = keras.applications.mobilenet_v2.preprocess_input(IMAGES.copy())
    expected = network.get_layer("backbone")(prepared)[-3:]
    for answer, each in zip(maps, expected, strict=True):
        np.testing.assert_allclose(answer, each, rtol=1e-4, atol=1e-5)
