import functools
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from apps.common import predictors, runs
from apps.common.errors import BadInput
from apps.common.predictors import load_predictor
from tests.model_server import serve

RAW = [b"\xff\x00", b"abc", b""]


def string_function(function):
    """Returns a `tf.function` of byte strings."""
    encoded = tf.TensorSpec([None], tf.string, name="raw_bytes")
    return tf.function(function, input_signature=[encoded])


def no_run(path):
    raise AssertionError(f"{path} is not a run")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """Answers with the length of each byte string, and with a text."""
    path = tmp_path_factory.mktemp("models") / "1"

    @string_function
    def serving_default(raw_bytes):
        return {
            "lengths": tf.cast(tf.strings.length(raw_bytes), tf.float32)[:, None],
            "texts": tf.fill([tf.size(raw_bytes), 1], "é"),
        }

    tf.saved_model.save(tf.Module(), str(path), signatures=serving_default)
    return path


def test_a_saved_model_a_rest_and_a_grpc_server_answer_alike(saved_model):
    with serve("letters", saved_model) as addresses:
        for where in (str(saved_model), *addresses):
            answers = load_predictor(where, no_run)(RAW)
            np.testing.assert_array_equal(answers["lengths"], [[2], [3], [0]])
            assert [row[0].decode() for row in answers["texts"]] == ["é"] * 3


def split_bytes(order):
    """Returns a function that splits byte strings, in this order of the parts."""

    @string_function
    def answer(raw_bytes):
        ends = [tf.strings.substr(raw_bytes, 0, 1), raw_bytes][::order]
        return {
            "part_bytes": tf.stack(ends, axis=1),
            "order": tf.fill([tf.size(raw_bytes)], order),
        }

    return answer


@pytest.fixture(scope="module")
def two_signatures(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "1"
    signatures = {"serving_default": split_bytes(1), "backwards": split_bytes(-1)}
    tf.saved_model.save(tf.Module(), str(path), signatures=signatures)
    return path


def test_other_signatures_and_binary_outputs_are_the_same_everywhere(two_signatures):
    expected = np.array([[b"\xff", b"\xff\x00"], [b"a", b"abc"], [b"", b""]], object)
    with serve("halves", two_signatures) as addresses:
        for where in (str(two_signatures), *addresses):
            for signature, order in (("serving_default", 1), ("backwards", -1)):
                answers = load_predictor(where, no_run, signature)(RAW)
                assert answers["order"].tolist() == [order] * 3
                parts = answers["part_bytes"].tolist()
                assert parts == expected[:, ::order].tolist()


def test_an_unknown_signature_is_refused(two_signatures, run):
    signatures = {"backwards": None, "serving_default": None}
    with serve("halves", two_signatures) as addresses:
        for where in (str(two_signatures), *addresses, str(run)):
            says = "has no signature 'upwards', only backwards, serving_default;"
            with pytest.raises(BadInput, match=says):
                load_predictor(where, lambda run: signatures, "upwards")


@pytest.fixture
def run(tmp_path):
    """A directory that looks like a run."""
    (tmp_path / "model.keras").write_bytes(b"")
    return tmp_path


def test_a_run_is_loaded_by_its_application(run):
    def load_signatures(path):
        assert path == run
        return {"serving_default": split_bytes(1), "backwards": split_bytes(-1)}

    for arguments, order in (((), 1), (("backwards",), -1)):
        answers = load_predictor(str(run), load_signatures, *arguments)(RAW)
        assert isinstance(answers["order"], np.ndarray)
        assert answers["order"].tolist() == [order] * 3


@pytest.mark.parametrize(
    "error", [ValueError("no header\nat all"), OSError("no header"), EOFError()]
)
def test_a_damaged_run_is_named(run, error):
    def load_signatures(path):
        raise error

    says = "cannot be loaded .(no header|EOFError).; its files are damaged"
    with pytest.raises(BadInput, match=says):
        load_predictor(str(run), load_signatures)


@pytest.mark.parametrize("error", [BadInput("data/x is missing"), ZeroDivisionError()])
def test_other_errors_of_loading_a_run_stay_what_they_are(run, error):
    def load_signatures(path):
        raise error

    with pytest.raises(type(error)) as raised:
        load_predictor(str(run), load_signatures)
    assert raised.value is error


def test_a_bundle_is_asked_through_its_own_program(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"content")
    (tmp_path / "run.py").write_text(
        "def load_model(path):\n"
        "    return lambda inputs: {'read': path.read_bytes(), 'inputs': inputs}\n"
    )
    for where in (tmp_path, tmp_path / "model.tflite"):
        predictor = load_predictor(str(where), no_run)
        assert predictor([b"x"]) == {"read": b"content", "inputs": [b"x"]}


def test_a_bundle_gets_the_signature_unless_it_is_the_default(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"content")
    (tmp_path / "run.py").write_text(
        "def load_model(path, signature='its own'):\n"
        "    return lambda inputs: signature\n"
    )
    assert load_predictor(str(tmp_path), no_run)([]) == "its own"
    assert load_predictor(str(tmp_path), no_run, "other")([]) == "other"


def test_a_bundle_with_one_signature_refuses_others(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"content")
    (tmp_path / "run.py").write_text(
        "def load_model(path):\n    return lambda inputs: path\n"
    )
    assert load_predictor(str(tmp_path), no_run)([]) == tmp_path / "model.tflite"
    with pytest.raises(BadInput, match="no signature 'other', only serving_default;"):
        load_predictor(str(tmp_path), no_run, "other")


def test_the_first_call_of_a_bundle_makes_no_noise(tmp_path, capfd):
    (tmp_path / "model.tflite").write_bytes(b"content")
    (tmp_path / "run.py").write_text(
        "import os\n"
        "def load_model(path):\n"
        "    return lambda inputs: os.write(2, inputs)\n"
    )
    predictor = load_predictor(str(tmp_path), no_run)
    predictor(b"INFO: Created a delegate\n")
    predictor(b"INFO: only the first call creates it\n")
    assert capfd.readouterr().err == "INFO: only the first call creates it\n"


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (
            "FileNotFoundError(2, 'No such file', 'labels.txt')",
            r"labels\.txt is missing",
        ),
        ("ValueError('not a flatbuffer')", "is no complete edge bundle; export it"),
    ],
)
def test_an_incomplete_bundle_is_named(tmp_path, raised, says):
    (tmp_path / "model.tflite").write_bytes(b"content")
    (tmp_path / "run.py").write_text(f"def load_model(path):\n    raise {raised}\n")
    with pytest.raises(BadInput, match=says):
        load_predictor(str(tmp_path), no_run)


@dataclass(frozen=True)
class Config:
    data: str
    beam_size: int = 5
    sizes: tuple[int, ...] = ()


TRAINED = Config("data/mine", 7, (1, 2))
HELD_OUT = {"test": ["a", "b"]}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A run, and an export of the same training, as the recipe leaves them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/mine").mkdir(parents=True)
    runs.start(TRAINED, tmp_path / "run", HELD_OUT)
    served = tmp_path / "served"
    (served / "1/assets.extra").mkdir(parents=True)
    (served / "edge").mkdir()
    (served / "edge/float32.tflite").touch()
    card = {"config": {"data": "data/mine", "beam_size": 7, "sizes": [1, 2]}}
    for folder in (served, served / "1/assets.extra"):
        runs.write_json(folder / "card.json", card)
        runs.write_json(folder / "held_out.json", HELD_OUT)
    return tmp_path


@pytest.mark.parametrize(
    "model", ["run", "served/1", "served/edge", "served/edge/float32.tflite"]
)
def test_models_record_their_training(recorded, model):
    def settings(*arguments, **overrides):
        return predictors.data_settings(
            Config, str(recorded / model), *arguments, **overrides
        )

    assert settings() == (TRAINED, False, HELD_OUT)
    assert settings("./data/mine") == (
        Config("./data/mine", 7, (1, 2)),
        False,
        HELD_OUT,
    )
    # Other data has no held-out examples.
    assert settings("data/other") == (Config("data/other", 7, (1, 2)), True, {})
    changed, is_other_data, _ = settings(beam_size=1, sizes=None)
    assert (changed, is_other_data) == (Config("data/mine", 1, (1, 2)), False)


def test_an_earlier_version_keeps_its_own_record(recorded):
    newer = {"config": {"data": "digits"}}
    runs.write_json(recorded / "served/card.json", newer)
    settings = predictors.data_settings(Config, str(recorded / "served/1"))
    assert settings.config == TRAINED
    settings = predictors.data_settings(Config, str(recorded / "served/edge"))
    assert settings.config.data == "digits"


def test_data_may_be_named_by_any_path(recorded):
    absolute = str(recorded / "data/mine")
    for trained, data in ((TRAINED.data, absolute), (absolute, TRAINED.data)):
        runs.start(Config(trained), recorded / "run", HELD_OUT)
        settings = predictors.data_settings(Config, str(recorded / "run"), data)
        assert settings == (Config(data), False, HELD_OUT)


def test_data_that_was_moved_is_named_by_its_new_path(recorded):
    (recorded / "data").rename(recorded / "elsewhere")
    for model in ("run", "served/1"):
        settings = functools.partial(predictors.data_settings, Config, model)
        says = f"^data/mine, on which --model {model} was trained, is not there; pass "
        with pytest.raises(BadInput, match=says):
            settings()
        assert settings("elsewhere/mine")[1:] == (False, HELD_OUT)
        assert settings("elsewhere/other")[1:] == (True, {})
    # Without held-out examples nothing tells whether it is the same data.
    runs.start(TRAINED, recorded / "run", {})
    assert predictors.data_settings(Config, "run", "elsewhere/mine")[1:] == (True, {})


@pytest.mark.parametrize("data", ["digits", "tfds:ted/pt_to_en"])
def test_data_sets_that_are_no_files_cannot_be_moved(recorded, data):
    runs.start(Config(data), recorded / "run", HELD_OUT)
    settings = predictors.data_settings(Config, str(recorded / "run"))
    assert settings == (Config(data), False, HELD_OUT)


@pytest.mark.parametrize("model", ["http://127.0.0.1:9/v1/models/x", "moved/edge"])
def test_without_a_record_data_must_be_named(recorded, model):
    if not model.startswith("http"):
        shutil.copytree(recorded / "served/edge", recorded / model)
        model = str(recorded / model)
    with pytest.raises(BadInput, match="does not record what it was trained on; add"):
        predictors.data_settings(Config, model)
    settings = predictors.data_settings(Config, model, "data/other")
    assert settings == (Config("data/other"), True, {})


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
        load_predictor(where, no_run)


def test_servers_say_what_they_lack(saved_model):
    with serve("letters", saved_model) as addresses:
        for address in addresses:
            with pytest.raises(BadInput, match="answered: "):
                load_predictor(address.replace("letters", "other"), no_run)


def test_broken_models_are_named(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(BadInput, match="cannot be loaded as a SavedModel"):
        load_predictor(str(tmp_path), no_run)
    (tmp_path / "alone.tflite").write_bytes(b"junk")
    with pytest.raises(BadInput, match=r"has no run\.py beside it"):
        load_predictor(str(tmp_path / "alone.tflite"), no_run)
