import functools
import json
import re
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from apps.common import predictors, runs
from apps.common.errors import BadInput
from tests.model_server import serve

RAW = [b"\xff\x00", b"abc", b""]


def load_predictor(where, *arguments):
    return predictors.load_predictor(where, "letters", *arguments)


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


def numbers_function(function):
    """Returns a `tf.function` of rows of three numbers."""
    rows = tf.TensorSpec([None, 3], name="rows")
    return tf.function(function, input_signature=[rows])


def first_letters(raw_bytes):
    """Answers an input that is empty with an error."""
    return {
        "firsts": tf.strings.substr(raw_bytes, 0, 1),
        "errors": tf.where(raw_bytes == b"", "the text is empty", ""),
    }


def all_types(raw_bytes):
    n = tf.size(raw_bytes)
    longest = tf.reduce_max(tf.concat([tf.strings.length(raw_bytes), [1]], 0))
    return {
        "tenths": tf.fill([n, 2], tf.constant(0.1)),
        "doubles": tf.fill([n], tf.constant(0.1, tf.float64)),
        "numbers": tf.fill([n, 1], n),
        "long_numbers": tf.fill([n], tf.constant(1 << 40, tf.int64)),
        "is_small": tf.fill([n], True),
        "texts": tf.fill([n, 2], "é"),
        "any_bytes": tf.fill([n], b"\xff"),
        "steps": tf.zeros([n, longest]),
    }


def check_rows(rows):
    is_row = tf.debugging.Assert(
        tf.shape(rows)[0] < 3, ["rows are 2 or less, not", tf.shape(rows)]
    )
    with tf.control_dependencies([is_row]):
        return {"sums": tf.reduce_sum(rows, 1)}


def checked_signatures():
    return {
        "serving_default": string_function(first_letters),
        "all_types": string_function(all_types),
        "tensors": numbers_function(check_rows),
    }


@pytest.fixture(scope="module")
def checked_model(tmp_path_factory):
    """Answers errors, all types of outputs, and refuses requests."""
    path = tmp_path_factory.mktemp("models") / "1"
    tf.saved_model.save(tf.Module(), str(path), signatures=checked_signatures())
    return path


@pytest.fixture(scope="module")
def engines(checked_model):
    """Predictors of all kinds, given the name of a signature."""
    run = checked_model.parent / "run"
    run.mkdir()
    (run / "model.keras").touch()
    with serve("letters", checked_model) as addresses:
        yield lambda signature: [
            load_predictor(str(where), lambda run: checked_signatures(), signature)
            for where in (run, checked_model, *addresses)
        ]


def test_every_engine_answers_the_types_of_the_graph(engines):
    for raw in (RAW, [b"x"]):
        expected, *others = (predict(raw) for predict in engines("all_types"))
        assert expected["tenths"].dtype == "float32"
        assert expected["texts"].tolist() == [["é".encode()] * 2] * len(raw)
        for answers in others:
            assert set(answers) == set(expected)
            for name, value in expected.items():
                assert answers[name].dtype == value.dtype
                np.testing.assert_array_equal(answers[name], value)


def test_an_empty_request_has_empty_answers(engines):
    shapes = {"tenths": (0, 2), "numbers": (0, 1), "texts": (0, 2), "any_bytes": (0,)}
    for predict in engines("all_types"):
        answers = predict([])
        for name, shape in shapes.items():
            assert answers[name].shape == shape
        assert answers["steps"].shape[0] == 0
        assert answers["tenths"].dtype == "float32"
        assert answers["texts"].dtype == object


def test_prepared_tensors_can_be_sent(engines):
    rows = np.arange(6).reshape(2, 3) / 10  # float64; the graph takes float32.
    for predict in engines("tensors"):
        sums = predict(rows)["sums"]
        np.testing.assert_array_equal(sums, engines("tensors")[0](rows)["sums"])
        assert sums.dtype == "float32"


def test_a_request_that_a_server_refuses_is_reported(engines):
    for predict in engines("tensors")[2:]:
        with pytest.raises(BadInput, match=r" answered: rows are 2 .*, not \[3 3\]$"):
            predict(np.zeros([3, 3]))


def test_an_input_with_an_error_is_refused_by_its_number(engines):
    for predict in engines("serving_default"):
        assert set(predict([b"abc", b"d"])) == {"firsts"}
        with pytest.raises(BadInput, match=r"^input 3: the text is empty$"):
            predict([b"abc", b"d", b""])
        answers = predictors.in_batches(predict, [b"ab"] * 5, batch_size=2)
        assert answers["firsts"].tolist() == [b"a"] * 5
        with pytest.raises(BadInput, match=r"^input 6: the text is empty$"):
            predictors.in_batches(predict, [b"ab"] * 5 + [b""], batch_size=2)


ABOUT = {
    "application": "letters",
    "name": "Letters: a, b",
    "version": 4,
    "classes": ["ä", "b"],
    "config": {"data": "data/mine", "beam_size": 7, "sizes": [1, 2]},
    "limits": {"max_inputs": 128},
    "training": "Trained on 2 texts.",
    "signatures": "`serving_default`: `text` → `letters`.",
}


@pytest.fixture(scope="module")
def described_model(tmp_path_factory):
    """A model that says what it serves."""
    path = tmp_path_factory.mktemp("models") / "1"

    def about(question):
        text = json.dumps(ABOUT, ensure_ascii=False)
        return {"about": tf.fill(tf.shape(question), text)}

    question = tf.TensorSpec([None], tf.string, name="question")
    signatures = {
        "serving_default": split_bytes(1),
        "about": tf.function(about, input_signature=[question]),
    }
    tf.saved_model.save(tf.Module(), str(path), signatures=signatures)
    return path


@pytest.fixture(scope="module")
def described_engines(described_model):
    with serve("letters", described_model) as addresses:
        yield str(described_model), *addresses


def test_an_exported_model_says_what_it_serves(described_engines):
    for model in described_engines:
        assert predictors.about(model) == ABOUT
        assert load_predictor(model, no_run)(RAW)["order"].tolist() == [1, 1, 1]


def test_a_model_without_about_records_nothing(two_signatures, tmp_path):
    with serve("halves", two_signatures) as addresses:
        for model in (str(two_signatures), *addresses, str(tmp_path)):
            assert predictors.about(model) is None


def test_another_applications_model_is_refused_before_a_request(
    described_engines, tmp_path
):
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge/model.tflite").touch()
    (tmp_path / "edge/run.py").touch()
    runs.write_json(tmp_path / "card.json", ABOUT)
    bundle = tmp_path / "edge"
    for model in (*described_engines, str(bundle), str(bundle / "model.tflite")):
        says = (
            f"--model {model} serves letters, not words; pass another model, or use "
            "python -m apps.letters"
        )
        with pytest.raises(BadInput, match=f"^{re.escape(says)}$"):
            predictors.load_predictor(model, "words", no_run)
        # Here the application is that of `Config`.
        with pytest.raises(BadInput, match="serves letters, not common; pass another"):
            predictors.data_settings(Config, model)


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


def test_without_a_record_data_must_be_named(recorded):
    model = str(shutil.copytree(recorded / "served/edge", recorded / "moved/edge"))
    with pytest.raises(BadInput, match="does not record what it was trained on; add"):
        predictors.data_settings(Config, model)
    settings = predictors.data_settings(Config, model, "data/other")
    assert settings == (Config("data/other"), True, {})


def test_a_server_tells_the_settings_of_the_training(
    recorded, described_engines, monkeypatch
):
    monkeypatch.setattr(predictors, "application_name", lambda config: "letters")
    for model in described_engines:
        settings = functools.partial(predictors.data_settings, Config, model)
        # It does not tell the held-out examples.
        assert settings() == (TRAINED, False, {})
        assert settings("data/other") == (Config("data/other", 7, (1, 2)), True, {})
        assert settings(beam_size=1).config == Config("data/mine", 1, (1, 2))
    (recorded / "data").rename(recorded / "elsewhere")
    for model in described_engines:
        with pytest.raises(
            BadInput, match=r"^data/mine, on which --model .* is not there"
        ):
            predictors.data_settings(Config, model)


def test_a_run_tells_its_settings_and_classes(recorded):
    settings = {"data": "data/mine", "beam_size": 7, "sizes": [1, 2]}
    said = {"config": settings, "classes": []}
    assert predictors.about(str(recorded / "run")) == said
    runs.write_json(recorded / "run/classes.json", ["a", "b"])
    assert predictors.about(str(recorded / "run")) == {**said, "classes": ["a", "b"]}


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
