import numpy as np
import pytest
import tensorflow as tf

from apps.common import limits

INPUTS = {
    "pixels": ([None, 4, 3], [5, 4, 3], tf.float32),
    "token_ids": ([None, None], [5, 6], tf.int32),
    "text": ([None], [5], tf.string),
}


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    """The signatures of a SavedModel that returns inputs, checked.

    Like a server it does not compare the inputs with the shapes of a signature.
    """
    signatures = {}
    for name, (shape, max_shape, dtype) in INPUTS.items():

        def check(inputs, name=name, shape=shape, max_shape=max_shape):
            checked = limits.check_shape(inputs, name, shape, max_shape)
            assert checked.shape.as_list() == shape
            return {"checked": checked}

        spec = tf.TensorSpec(shape, dtype, name=name)
        signatures[name] = tf.function(check, input_signature=[spec])
    path = str(tmp_path_factory.mktemp("saved_model"))
    tf.saved_model.save(tf.Module(), path, signatures=signatures)
    loaded = tf.saved_model.load(path)

    def call(name, shape):
        values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        inputs = tf.cast(tf.constant(values), tf.int32)
        dtype = INPUTS[name][2]
        inputs = tf.as_string(inputs) if dtype == tf.string else tf.cast(inputs, dtype)
        return inputs, loaded.signatures[name](**{name: inputs})["checked"]

    return call


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("pixels", (1, 4, 3)), ("pixels", (5, 4, 3))),
        *(("token_ids", (1, 1)), ("token_ids", (5, 6)), ("token_ids", (1, 6))),
        *(("text", (1,)), ("text", (5,))),
    ],
)
def test_inputs_of_the_right_shape_pass(signatures, name, shape):
    inputs, checked = signatures(name, shape)
    np.testing.assert_array_equal(checked, inputs)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("pixels", ()), ("pixels", (4,)), ("pixels", (4, 3)), ("pixels", (1, 4))),
        *(("pixels", (1, 1, 4, 3)), ("pixels", (1, 4, 3, 1)), ("pixels", (1,) * 6)),
        *(("pixels", (6, 4, 3)), ("pixels", (1, 5, 3)), ("pixels", (1, 4, 4))),
        *(("pixels", (1, 3, 3)), ("pixels", (1, 3, 4)), ("pixels", (1, 0, 3))),
        *(("pixels", (3, 4, 0)), ("pixels", (2, 0, 0)), ("pixels", (1, 0))),
        *(("token_ids", ()), ("token_ids", (3,)), ("token_ids", (1, 2, 3))),
        *(("token_ids", (2, 0)), ("token_ids", (6, 1)), ("token_ids", (1, 7))),
        *(("text", ()), ("text", (1, 1)), ("text", (6,)), ("text", (1, 0))),
    ],
)
def test_other_shapes_are_refused_with_a_sentence(signatures, name, shape):
    expected = {
        "pixels": "(n, 4, 3), n at most 5, but",
        "token_ids": "(n, k), n at most 5, k at most 6, but",
        "text": "(n,), n at most 5, but",
    }[name]
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        signatures(name, shape)
    sentence = (
        f"{name} must have the shape {expected} has] [{' '.join(map(str, shape))}"
    )
    assert sentence in error.value.message


@pytest.mark.parametrize("further", [(), (4, 3), (7,), (0, 0), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize(
    ("name", "expected"), [("pixels", (0, 4, 3)), ("token_ids", (0, 1)), ("text", (0,))]
)
def test_requests_without_inputs_may_have_any_shape(
    signatures, name, expected, further
):
    inputs, checked = signatures(name, (0, *further))
    assert (checked.shape, checked.dtype) == (expected, inputs.dtype)


def test_the_first_error_of_each_input_counts():
    errors = limits.first_error(
        (tf.constant([False, True, False, True]), "first"),
        (tf.constant([False, True, True, False]), tf.constant(["a", "b", "c", "d"])),
        (tf.constant([False, False, True, True]), "last"),
    )
    assert errors.numpy().tolist() == [b"", b"first", b"c", b"first"]
    assert limits.first_error((tf.zeros([0], tf.bool), "none")).shape == (0,)


def test_answers_to_bad_inputs_are_neutral():
    outputs = {
        "scores": tf.constant([[0.5, 0.5], [np.nan, np.inf], [1e-9, -1]]),
        "token_ids": tf.constant([3, 4, 5]),
        "classes": tf.constant([["a", "b"], ["c", "d"], ["", "f"]]),
        "masks": tf.ones([3, 2, 2, 1], tf.uint8),
    }
    answers = limits.answer(outputs, tf.constant(["", "bad", ""]))
    assert list(answers) == [*outputs, "errors"]
    assert answers["errors"].numpy().tolist() == [b"", b"bad", b""]
    for name, value in outputs.items():
        assert answers[name].dtype == value.dtype
        for i in (0, 2):
            np.testing.assert_array_equal(answers[name][i], value[i])
        assert not answers[name][1].numpy().astype(bool).any()
    empty = limits.answer({"scores": tf.zeros([0, 2])}, tf.constant([], tf.string))
    assert empty["scores"].shape == (0, 2)


def square_root(number):
    """Fails for negative numbers."""
    check = tf.debugging.Assert(number >= 0, ["negative"])
    with tf.control_dependencies([check]):
        return tf.sqrt(number)


def test_an_attempt_goes_on_after_an_error():
    for attempt in (limits.attempt, tf.function(limits.attempt)):
        for number, expected in ((9.0, 3), (-1.0, 7), (0.0, 0), (-np.inf, 7)):
            result, succeeded = attempt(
                square_root, tf.constant(number), tf.constant(7.0)
            )
            assert (float(result), bool(succeeded)) == (expected, number >= 0)


def test_attempts_of_many_inputs_are_independent(tmp_path):
    def attempt_each(numbers):
        results, succeeded = tf.map_fn(
            lambda number: limits.attempt(square_root, number, tf.constant(-1.0)),
            numbers,
            fn_output_signature=(tf.float32, tf.bool),
        )
        return {"results": results, "succeeded": succeeded}

    spec = tf.TensorSpec([None], name="numbers")
    function = tf.function(attempt_each, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(tmp_path), {"serving_default": function})
    loaded = tf.saved_model.load(str(tmp_path))
    numbers = np.random.default_rng(0).normal(size=100).astype("float32")
    answers = loaded.signatures["serving_default"](numbers=tf.constant(numbers))
    np.testing.assert_array_equal(answers["succeeded"], numbers >= 0)
    expected = np.where(numbers >= 0, np.sqrt(np.abs(numbers)), -1)
    np.testing.assert_allclose(answers["results"], expected, rtol=1e-6)


@pytest.mark.parametrize("is_structure", [False, True])
def test_networks_may_be_called_with_an_empty_batch(is_structure, tmp_path):
    """Like most networks, this one cannot take an empty batch itself."""

    def network(numbers):
        check = tf.debugging.Assert(tf.shape(numbers)[0] > 0, ["empty"])
        with tf.control_dependencies([check]):
            doubled = 2 * numbers
        outputs = {"doubled": doubled, "texts": (tf.as_string(numbers[:, 0]),)}
        return outputs if is_structure else doubled

    spec = tf.TensorSpec([None, 3])
    call = tf.function(
        lambda numbers: limits.call_network(network, numbers), input_signature=[spec]
    )
    for number in (0, 1, 4):
        numbers = np.arange(3 * number, dtype="float32").reshape(number, 3)
        results = call(tf.constant(numbers))
        doubled = results["doubled"] if is_structure else results
        assert doubled.shape == (number, 3)
        np.testing.assert_array_equal(doubled, 2 * numbers)
        if is_structure:
            (texts,) = results["texts"]
            assert texts.numpy().tolist() == [b"%f" % each for each in numbers[:, 0]]
