import numpy as np
import pytest
import tensorflow as tf

from apps.common import predictors
from apps.common.errors import BadInput
from tests.model_server import serve


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """Answers with the length of each byte string, and with a text."""
    path = tmp_path_factory.mktemp("models") / "1"

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="raw_bytes")])
    def serving_default(raw_bytes):
        return {
            "lengths": tf.cast(tf.strings.length(raw_bytes), tf.float32)[:, None],
            "texts": tf.fill([tf.size(raw_bytes), 1], "é"),
        }

    tf.saved_model.save(tf.Module(), str(path), signatures=serving_default)
    return path


RAW = [b"\xff\x00", b"abc", b""]


def check(predictor):
    answers = predictor(RAW)
    np.testing.assert_array_equal(answers["lengths"], [[2], [3], [0]])
    assert [row[0].decode() for row in answers["texts"]] == ["é"] * 3


def test_a_saved_model_a_rest_and_a_grpc_server_answer_alike(saved_model):
    check(predictors.load_predictor(str(saved_model), load_run=None))
    with serve("letters", saved_model) as addresses:
        for address in addresses:
            check(predictors.load_predictor(address, load_run=None))


@pytest.fixture(scope="module")
def two_signatures(tmp_path_factory):
    """Gives each byte string back, cut in two; by `backwards` the other way round."""
    path = tmp_path_factory.mktemp("models") / "1"

    def give_back(order):
        def answer(raw_bytes):
            ends = [tf.strings.substr(raw_bytes, 0, 1), raw_bytes][::order]
            return {
                "part_bytes": tf.stack(ends, axis=1),
                "order": tf.fill([tf.size(raw_bytes)], order),
            }

        encoded = tf.TensorSpec([None], tf.string, name="raw_bytes")
        return tf.function(answer, input_signature=[encoded])

    signatures = {"serving_default": give_back(1), "backwards": give_back(-1)}
    tf.saved_model.save(tf.Module(), str(path), signatures=signatures)
    return path


def test_another_signature_and_binary_outputs_are_answered_alike(two_signatures):
    expected = np.array([[b"\xff", b"\xff\x00"], [b"a", b"abc"], [b"", b""]], object)
    with serve("halves", two_signatures) as addresses:
        for where in (str(two_signatures), *addresses):
            for signature, order in (("serving_default", 1), ("backwards", -1)):
                answers = predictors.load_predictor(where, None, signature)(RAW)
                assert answers["order"].tolist() == [order] * 3
                parts = answers["part_bytes"].tolist()
                assert parts == expected[:, ::order].tolist()


def test_an_unknown_signature_is_refused(two_signatures):
    with serve("halves", two_signatures) as addresses:
        for where in (str(two_signatures), *addresses):
            with pytest.raises(BadInput, match="has no signature 'upwards', only back"):
                predictors.load_predictor(where, None, "upwards")


def test_a_run_is_loaded_by_its_application(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    load_run = {tmp_path: "the predictor"}.get
    assert predictors.load_predictor(str(tmp_path), load_run) == "the predictor"


def test_a_bundle_is_asked_through_its_own_program(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"content")
    (tmp_path / "run.py").write_text(
        "def load_model(path):\n"
        "    return lambda inputs: {'read': path.read_bytes(), 'inputs': inputs}\n"
    )
    for where in (tmp_path, tmp_path / "model.tflite"):
        predictor = predictors.load_predictor(str(where), load_run=None)
        assert predictor([b"x"]) == {"read": b"content", "inputs": [b"x"]}


def test_a_bundle_is_handed_the_signature_unless_it_is_the_default(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"content")
    (tmp_path / "run.py").write_text(
        "def load_model(path, *signatures):\n    return signatures\n"
    )
    assert predictors.load_predictor(str(tmp_path), None) == ()
    assert predictors.load_predictor(str(tmp_path), None, "other") == ("other",)


def test_batches_are_joined_in_order():
    sizes = []

    def predictor(inputs):
        sizes.append(len(inputs))
        return {"squares": np.array(inputs) ** 2}

    answers = predictors.in_batches(predictor, iter(range(7)), batch_size=3)
    np.testing.assert_array_equal(answers["squares"], np.arange(7) ** 2)
    assert sizes == [3, 3, 1]


def test_shorter_batches_are_padded():
    def predictor(words):
        longest = max(map(len, words))
        return {
            "letters": np.array([[*w.ljust(longest)] for w in words], object),
            "places": np.array([range(1, longest + 1) for _ in words], "float32"),
            "grids": np.ones((len(words), longest, 2), "int32"),
            "lengths": np.array([len(word) for word in words]),
        }

    answers = predictors.in_batches(predictor, ["abc", "de", "f"], batch_size=1)
    letters = [["a", "b", "c"], ["d", "e", b""], ["f", b"", b""]]
    assert answers["letters"].tolist() == letters
    places = [[1, 2, 3], [1, 2, 0], [1, 0, 0]]
    assert answers["places"].tolist() == places
    assert answers["places"].dtype == "float32"
    assert answers["grids"][..., 1].tolist() == (np.array(places) > 0).tolist()
    assert answers["lengths"].tolist() == [3, 2, 1]


def test_all_axes_are_padded():
    def predictor(shapes):
        return {"attention": np.ones((len(shapes), *shapes[0]), "float32")}

    answers = predictors.in_batches(predictor, [(2, 3), (3, 1), (0, 2)], batch_size=1)
    attention = answers["attention"]
    assert (attention.shape, attention.dtype) == ((3, 3, 3), "float32")
    expected = np.zeros((3, 3, 3))
    expected[0, :2, :3] = expected[1, :3, :1] = 1
    np.testing.assert_array_equal(attention, expected)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere", "nowhere is no model"),
        ("http://127.0.0.1:9/v1/models/x", "does not answer"),
        ("grpc://127.0.0.1:9/x", "does not answer"),
    ],
)
def test_what_is_no_model_is_named(where, message):
    with pytest.raises(BadInput, match=message):
        predictors.load_predictor(where, load_run=None)


def test_servers_say_what_they_lack(saved_model):
    with serve("letters", saved_model) as addresses:
        for address in addresses:
            with pytest.raises(BadInput, match="answered: "):
                predictors.load_predictor(
                    address.replace("letters", "other"), load_run=None
                )


def test_broken_models_are_named(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(BadInput, match="cannot be loaded as a SavedModel"):
        predictors.load_predictor(str(tmp_path), load_run=None)
    (tmp_path / "alone.tflite").write_bytes(b"junk")
    with pytest.raises(BadInput, match=r"has no run\.py beside it"):
        predictors.load_predictor(str(tmp_path / "alone.tflite"), load_run=None)
