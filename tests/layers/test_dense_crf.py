import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import softmax

from apps.common import saved_models
from layers import DenseCRF
from tests.layers.layer_contract import check_layer, convert, export

SHAPES = [(2, 9, 8, 4), (2, 9, 8, 3)]


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({"method": "lattice", "iterations": 2}, 2),
        ({"method": "lattice", "iterations": 2, "compatibility": "learned"}, 3),
        ({"method": "windowed", "iterations": 2, "stride": 2, "window": 2}, 2),
        ({"method": "windowed", "iterations": 1, "stride": 1, "window": 1}, 2),
    ],
    ids=["lattice", "learned", "windowed", "stride 1"],
)
def test_contract(arguments, weights, tmp_path):
    check_layer(
        DenseCRF,
        arguments,
        SHAPES,
        SHAPES[0],
        tmp_path,
        weights,
        num_learning_inputs=1,
        runs_in_lite=arguments["method"] == "windowed",
    )


def exact_marginals(scores, image, crf, support=None):
    """Returns marginals of mean-field inference over all pairs of pixels."""
    height, width, classes = scores.shape
    position = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2).astype(float)
    color = image.reshape(-1, 3).astype(float)
    position_distance = ((position[:, None] - position) ** 2).sum(axis=-1)
    color_distance = ((color[:, None] - color) ** 2).sum(axis=-1)
    appearance = np.exp(
        -position_distance / (2 * crf.position_sigma**2)
        - color_distance / (2 * crf.color_sigma**2)
    )
    smoothness = np.exp(-position_distance / (2 * crf.smoothness_sigma**2))
    kernels = [
        (crf.appearance_weight, appearance),
        (crf.smoothness_weight, smoothness),
    ]
    total = sum(
        weight * kernel / np.sqrt(np.outer(kernel.sum(axis=0), kernel.sum(axis=1)))
        for weight, kernel in kernels
    )
    support = np.eye(classes) if support is None else support
    unary = scores.reshape(-1, classes).astype(float)
    refined = unary
    for _ in range(crf.iterations):
        refined = unary + total @ softmax(refined, axis=-1) @ support
    return softmax(refined, axis=-1).reshape(height, width, classes)


def marginals(crf, scores, image):
    refined = crf([scores[None].astype("float32"), image[None].astype("float32")])
    return tf.nn.softmax(refined)[0].numpy()


def smooth_noise(rng, height, width, channels, cells=5):
    """Returns random maps that change slowly from pixel to pixel."""
    coarse = rng.uniform(0, 1, (channels, cells, cells)).astype("float32")
    fine = [
        np.array(
            Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)
        )
        for each in coarse
    ]
    return np.stack(fine, axis=-1)


def random_example(seed, height=36, width=30, classes=4):
    """Returns smooth, confident scores, as a network gives them, and a random image."""
    rng = np.random.default_rng(seed)
    image = (255 * smooth_noise(rng, height, width, 3)).clip(0, 255).round()
    scores = 25 * smooth_noise(rng, height, width, classes)
    return scores + rng.normal(0, 0.5, scores.shape), image


@pytest.mark.parametrize(("position", "color"), [(60, 8), (80, 13), (20, 20)])
def test_the_lattice_is_close_to_exact_inference(position, color):
    crf = DenseCRF(5, 4.0, position, color)
    examples = [random_example(seed) for seed in range(8)]
    before = np.array([scores for scores, _ in examples])
    expected = np.array([exact_marginals(*example, crf) for example in examples])
    answers = np.array([marginals(crf, *example) for example in examples])
    assert np.abs(answers - expected).mean() <= 0.03
    assert (answers.argmax(-1) == expected.argmax(-1)).mean() >= 0.99
    # The CRF changes the labels; otherwise their agreement would prove nothing.
    assert (before.argmax(-1) != expected.argmax(-1)).mean() > 0.03


@pytest.mark.parametrize("compatibility", ["potts", "learned"])
def test_a_window_over_the_whole_image_is_exact(compatibility):
    scores, image = random_example(0)
    crf = DenseCRF(
        5,
        4.0,
        20.0,
        20.0,
        compatibility=compatibility,
        method="windowed",
        window=36,
        stride=1,
    )
    crf.build([(None, None, None, 4), (None, None, None, 3)])
    support = np.eye(4)
    if compatibility == "learned":
        support = np.random.default_rng(0).normal(size=(4, 4))
        crf.support.assign(support)
    expected = exact_marginals(scores, image, crf, support)
    np.testing.assert_allclose(marginals(crf, scores, image), expected, atol=1e-4)


def test_the_lattice_applies_a_learned_compatibility():
    scores, image = random_example(0)
    support = np.random.default_rng(0).normal(size=(4, 4))
    crf = DenseCRF(3, 2.0, 20.0, 20.0, compatibility="learned")
    crf.build([(None, None, None, 4), (None, None, None, 3)])
    crf.support.assign(support)
    expected = exact_marginals(scores, image, crf, support)
    assert np.abs(marginals(crf, scores, image) - expected).mean() <= 0.02


@pytest.mark.parametrize("method", ["lattice", "windowed"])
def test_images_of_a_batch_are_independent(method):
    pairs = [random_example(seed) for seed in range(3)]
    scores, images = (
        np.stack(each).astype("float32") for each in zip(*pairs, strict=True)
    )
    crf = DenseCRF(3, method=method)
    together = crf([scores, images])
    for i in range(3):
        alone = crf([scores[i : i + 1], images[i : i + 1]])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", ["lattice", "windowed"])
@pytest.mark.parametrize("compatibility", ["potts", "learned"])
def test_gradients_equal_finite_differences(method, compatibility):
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (2, 5, 4, 3)))
    scores = rng.normal(size=(2, 5, 4, 3))
    factors = rng.normal(size=(2, 5, 4, 3))
    crf = DenseCRF(
        3,
        position_sigma=3.0,
        color_sigma=60.0,
        smoothness_sigma=1.0,
        compatibility=compatibility,
        method=method,
        window=2,
        stride=1,  # With a larger one TensorFlow resizes, and does that in float32.
        dtype="float64",
    )
    crf.build([scores.shape, images.shape])

    scores = tf.Variable(scores)

    @tf.function
    def loss():
        return tf.reduce_sum(crf([scores, images]) * factors)

    learning = [scores, *(weight.value for weight in crf.trainable_weights)]
    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(
        learning, tape.gradient(value, learning), strict=True
    ):
        before = variable.numpy()
        gradient = gradient.numpy()
        for index in list(np.ndindex(before.shape))[::7]:
            step = np.zeros_like(before)
            step[index] = 1e-5
            variable.assign(before + step)
            above = loss()
            variable.assign(before - step)
            below = loss()
            variable.assign(before)
            expected = (above - below) / 2e-5
            np.testing.assert_allclose(gradient[index], expected, rtol=1e-5, atol=1e-8)


def test_it_trains_end_to_end():
    scores, image = random_example(1)
    truth = exact_marginals(scores, image, DenseCRF(5, 6.0, 20.0, 20.0)).argmax(-1)
    crf = DenseCRF(5, 0.1, 20.0, 20.0, smoothness_weight=0.1)
    inputs = [scores[None].astype("float32"), image[None].astype("float32")]
    crf(inputs)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(truth[None], crf(inputs))
            )
        variables = [weight.value for weight in crf.trainable_weights]
        for variable, gradient in zip(
            variables, tape.gradient(loss, variables), strict=True
        ):
            variable.assign_sub(5 * gradient)
        return loss

    losses = [float(step()) for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_it_is_served_without_our_code(tmp_path):
    crf = DenseCRF(3)
    scores, image = random_example(0)
    feed = {
        "scores": scores[None].astype("float32"),
        "images": image[None].astype("float32"),
    }
    signature = tf.function(
        lambda scores, images: {"refined": crf([scores, images])},
        input_signature=[
            tf.TensorSpec([None, None, None, 4], name="scores"),
            tf.TensorSpec([None, None, None, 3], name="images"),
        ],
    )
    expected = crf([feed["scores"], feed["images"]]).numpy()
    export(signature, crf.variables, tmp_path / "1")
    found = saved_models.operations(tmp_path / "1")
    assert "SparseTensorDenseMatMul" in found
    assert not found & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}

    np.savez(tmp_path / "feed.npz", **feed)
    program = (
        "import sys, tensorflow as tf, numpy as np\n"
        "feed = np.load('feed.npz')\n"
        "model = tf.saved_model.load('1').signatures['serving_default']\n"
        "answer = model(**{name: tf.constant(feed[name]) for name in feed})\n"
        "np.save('answer.npy', answer['refined'])\n"
        "assert 'layers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=1e-3)


def test_the_lite_model_is_small(tmp_path):
    crf = DenseCRF(method="windowed")
    shapes = [(1, 96, 128, 4), (1, 96, 128, 3)]
    crf.build(shapes)
    signature = tf.function(
        lambda scores, images: {"refined": crf([scores, images])},
        input_signature=[
            tf.TensorSpec(shape, name=name)
            for shape, name in zip(shapes, ("scores", "images"), strict=True)
        ],
    )
    file = tmp_path / "crf.tflite"
    convert(signature, crf.variables, file)
    assert file.stat().st_size < 600_000


def test_float16_gives_nearly_the_same_labels():
    scores, image = random_example(0)
    inputs = [scores[None].astype("float32"), image[None].astype("float32")]
    half = DenseCRF(3, dtype="float16")(inputs)
    single = DenseCRF(3)(inputs)
    assert (np.argmax(half, -1) == np.argmax(single, -1)).mean() > 0.99


def test_equal_scores_and_colours_stay_equal():
    refined = DenseCRF(2)([np.ones((1, 6, 5, 3)), np.zeros((1, 6, 5, 3))])
    np.testing.assert_allclose(softmax(refined, axis=-1), 1 / 3, atol=1e-6)


def test_an_image_may_be_a_single_pixel():
    refined = DenseCRF(2)([np.ones((1, 1, 1, 3)), np.ones((1, 1, 1, 3))])
    assert np.isfinite(refined).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"color_sigma": 0}, "`color_sigma` must be above 0"),
        ({"iterations": -1}, "`iterations` must be above 0"),
        ({"iterations": 2.5}, "`iterations` must be a whole number"),
        ({"method": "magic"}, "`method` must be one of"),
        ({"compatibility": "all"}, "`compatibility` must be one of"),
    ],
)
def test_rejects_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DenseCRF(**arguments)
