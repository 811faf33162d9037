import json
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import saved_models
from apps.common.errors import ExportRefused


def signature(function):
    return tf.function(
        function, input_signature=[tf.TensorSpec([1, 4], name="numbers")]
    )


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )


def test_folding_batch_normalization_changes_no_answer():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=True, name="biased")(inputs)
    x = keras.layers.BatchNormalization(name="folded_1")(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    x = keras.layers.BatchNormalization(name="folded_2", scale=False)(x)
    inner = keras.Model(inputs, x)
    images = keras.Input((None, None, 3))
    y = keras.layers.Conv2D(5, 1, activation="relu")(inner(images / 2))
    y = keras.layers.BatchNormalization(name="after_an_activation")(y)
    y = keras.layers.Conv2D(5, 1, name="used_twice")(y)
    y = keras.layers.BatchNormalization(name="of_two")(y) + y
    model = keras.Model(images, y)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))

    folded = saved_models.fold_batch_normalization(model)
    x = rng.normal(size=(2, 9, 7, 3)).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4)
    remaining = {variable.path.split("/")[-2] for variable in folded.variables}
    assert {"after_an_activation", "of_two"} <= remaining
    assert not {"folded_1", "folded_2"} & remaining


def test_a_graph_that_calls_python_is_refused(model, tmp_path):
    calls_python = signature(
        lambda numbers: {"y": tf.numpy_function(np.sin, [model(numbers)], tf.float32)}
    )
    with pytest.raises(ExportRefused, match="PyFunc"):
        saved_models.save(
            model.variables, {"serving_default": calls_python}, tmp_path / "1"
        )


@pytest.mark.parametrize("variant", ["float32", "float16", "dynamic_range", "int8"])
def test_conversion_keeps_what_the_model_computes(model, tmp_path, variant):
    from ai_edge_litert.interpreter import Interpreter

    rng = np.random.default_rng(0)
    examples = [
        {"numbers": rng.normal(size=(1, 4)).astype("float32")} for _ in range(50)
    ]
    path = tmp_path / "model.tflite"
    counts = saved_models.convert(
        model.variables,
        signature(lambda numbers: {"y": model(numbers)}),
        path,
        variant,
        examples,
    )
    assert counts["FULLY_CONNECTED"] == 2
    assert ("QUANTIZE" in counts) == (variant == "int8")
    lite = Interpreter(str(path)).get_signature_runner()
    for example in examples[:5]:
        np.testing.assert_allclose(
            lite(**example)["y"],
            model(example["numbers"]),
            atol=1e-5 if variant == "float32" else 0.1,
        )


def test_weights_of_half_precision_take_half_the_space(tmp_path):
    inputs = keras.Input((64,))
    model = keras.Model(inputs, keras.layers.Dense(512)(inputs))
    function = tf.function(
        lambda numbers: {"y": model(numbers)},
        input_signature=[tf.TensorSpec([1, 64], name="numbers")],
    )
    sizes = {}
    for variant in ("float32", "float16"):
        path = tmp_path / variant
        saved_models.convert(model.variables, function, path, variant)
        sizes[variant] = path.stat().st_size
    assert 0.45 < sizes["float16"] / sizes["float32"] < 0.6  # With 8 bits a quarter.


def test_one_file_holds_several_signatures(model, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    functions = {
        "once": signature(lambda numbers: {"y": model(numbers)}),
        "twice": signature(lambda numbers: {"y": 2 * model(numbers)}),
    }
    path = tmp_path / "model.tflite"
    counts = saved_models.convert(model.variables, functions, path, "float32")
    assert counts["FULLY_CONNECTED"] == 4
    lite = Interpreter(str(path))
    assert set(lite.get_signature_list()) == {"once", "twice"}
    numbers = np.random.default_rng(0).normal(size=(1, 4)).astype("float32")
    for name, factor in (("once", 1), ("twice", 2)):
        answer = lite.get_signature_runner(name)(numbers=numbers)["y"]
        np.testing.assert_allclose(answer, factor * model(numbers), rtol=1e-5)


def test_what_lite_cannot_express_is_refused(model, tmp_path):
    complicated = signature(lambda numbers: {"y": tf.linalg.expm(tf.eye(4) * numbers)})
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportRefused, match="TensorFlow Lite cannot express"):
        saved_models.convert(model.variables, complicated, path, "float32")
    assert not path.exists()


def test_warm_up_requests_are_what_the_server_reads(tmp_path):
    from tensorflow_serving.apis import prediction_log_pb2

    saved_models.write_warm_up(
        tmp_path, "name", {"tensors": {"x": tf.make_tensor_proto(1.0, shape=(2, 2))}}
    )
    path = tmp_path / "assets.extra/tf_serving_warmup_requests"
    (record,) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
    assert request.model_spec.name == "name"
    assert request.model_spec.signature_name == "tensors"
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["x"]), np.ones((2, 2)))


CARD = {
    "operations": {"SOFTMAX": 1, "ADD": 2},
    "name": "A model",
    "description": "It counts.",
    "engines": [{"engine": "SavedModel", "size_MB": 1.5}],
    "recommended": "Recommended: it.",
    "facts": {"Data": "Numbers."},
    "config": {"data": "numbers"},
}


def test_publishing_replaces_the_bundle_and_adds_a_version(tmp_path):
    directory = tmp_path / "models"
    for expected_version in (1, 2):
        with saved_models.staging(directory) as stage:
            version = saved_models.next_version(directory)
            assert version == expected_version
            for folder in ("edge", str(version)):
                (stage / folder).mkdir()
                (stage / folder / "file").write_text(str(version))
            saved_models.write_card(stage, CARD)
            saved_models.publish(stage, directory, version)
    assert sorted(path.name for path in directory.iterdir()) == [
        "1",
        "2",
        "card.json",
        "card.md",
        "edge",
    ]
    assert (directory / "edge/file").read_text() == "2"
    assert json.loads((directory / "card.json").read_text())["name"] == "A model"
    card = (directory / "card.md").read_text()
    assert "| SavedModel | 1.5 |" in card
    assert "ADD 2, SOFTMAX 1" in card


def test_a_failed_export_leaves_nothing(tmp_path):
    directory = tmp_path / "models"

    def export():
        with saved_models.staging(directory) as stage:
            (stage / "1").mkdir()
            raise ExportRefused

    with pytest.raises(ExportRefused):
        export()
    assert not directory.exists()


def test_sizes_are_in_millions_of_bytes(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x" * 1_500_000)
    (tmp_path / "folder/file").write_bytes(b"x" * 500_000)
    assert saved_models.size_mb(tmp_path / "file") == 1.5
    assert saved_models.size_mb(tmp_path) == 2.0


def test_latency_counts_milliseconds(monkeypatch):
    now = iter(np.arange(0, 100, 0.25))
    monkeypatch.setattr(saved_models.time, "perf_counter", lambda: next(now))
    assert saved_models.latency_ms(lambda inputs: None, b"") == 250.0


def rows(**accuracies):
    return [
        {"engine": name, "accuracy": accuracy, "difference": 0.0}
        for name, accuracy in {"SavedModel": 0.9, **accuracies}.items()
    ]


@pytest.mark.parametrize("difference", [0.01, np.nan])
@pytest.mark.parametrize("engine", [0, 1])
def test_exact_engines_must_be_exact(difference, engine):
    bounds = {"SavedModel": 1e-4, "float32": 1e-3}
    engines = rows(float32=0.9)
    saved_models.check(engines, "difference", bounds)
    engines[engine]["difference"] = difference
    with pytest.raises(ExportRefused, match="nothing was published"):
        saved_models.check(engines, "difference", bounds)


@pytest.mark.parametrize(
    ("accuracies", "left"),
    [
        (
            {"float32": 0.9, "dynamic_range": 0.9, "int8": 0.891},
            {"float32", "dynamic_range", "model: int8"},
        ),
        (
            {"float32": 0.9, "dynamic_range": 0.893, "int8": 0.7},
            {"float32", "model: dynamic_range"},
        ),
        ({"int8": 0.895}, {"model: int8"}),
    ],
)
def test_the_leanest_accurate_variant_is_recommended(accuracies, left, tmp_path):
    for variant in accuracies:
        (tmp_path / f"{variant}.tflite").write_text(variant)
    saved_models.recommend(tmp_path, rows(**accuracies), accuracies, "accuracy", 0.01)
    names = set()
    for path in tmp_path.iterdir():
        content = path.read_text()
        names.add(content if path.stem == content else f"{path.stem}: {content}")
    assert names == left


def test_no_accurate_variant_stops_the_export(tmp_path):
    (tmp_path / "int8.tflite").touch()
    with pytest.raises(ExportRefused, match=r"none of int8 comes within 0\.01"):
        saved_models.recommend(tmp_path, rows(int8=0.8), ["int8"], "accuracy", 0.01)


def test_half_precision_halves_the_variables(tmp_path):
    inputs = keras.Input((64,))
    model = keras.Model(inputs, keras.layers.Dense(256, "tanh")(inputs))
    numbers = np.random.default_rng(0).normal(size=(3, 64)).astype("float32")
    sizes = {}
    for half in (False, True):
        path = tmp_path / str(half)
        function = tf.function(
            lambda numbers: {"y": model(numbers)},
            input_signature=[tf.TensorSpec([None, 64], name="numbers")],
        )
        saved_models.save(model.variables, {"serving_default": function}, path, half)
        served = tf.saved_model.load(path).signatures["serving_default"]
        answer = served(numbers=tf.constant(numbers))["y"]
        np.testing.assert_allclose(answer, model(numbers), atol=5e-3 if half else 1e-6)
        sizes[half] = saved_models.size_mb(path / "variables")
    assert sizes[True] < 0.6 * sizes[False]


def test_a_table_that_a_signature_uses_is_saved_along(tmp_path):
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["ant", "bee"], [1.0, 2.0]), 0.0
    )
    function = tf.function(
        lambda words: {"y": table.lookup(words)},
        input_signature=[tf.TensorSpec([None], tf.string, name="words")],
    )
    with pytest.raises(AssertionError, match="untracked"):
        saved_models.save([], {"serving_default": function}, tmp_path / "without")
    saved_models.save(
        [], {"serving_default": function}, tmp_path / "with", resources=[table]
    )
    served = tf.saved_model.load(tmp_path / "with").signatures["serving_default"]
    answer = served(words=tf.constant(["bee", "cat"]))["y"]
    assert answer.numpy().tolist() == [2, 0]


def test_a_bundle_holds_its_program_and_names_what_it_requires(model, tmp_path):
    operations = saved_models.write_bundle(
        tmp_path,
        __file__,
        "sentencepiece>=0.2",
        ["häßlich", "schön"],
        model.variables,
        signature(lambda numbers: {"y": model(numbers)}),
        ["float32"],
    )
    assert operations["float32"]["FULLY_CONNECTED"] == 2
    assert (tmp_path / "run.py").read_text() == Path(__file__).read_text()
    assert (tmp_path / "labels.txt").read_text("utf-8") == "häßlich\nschön\n"
    assert (tmp_path / "requirements.txt").read_text().splitlines() == [
        *saved_models.REQUIREMENTS,
        "sentencepiece>=0.2",
    ]
    assert (tmp_path / "float32.tflite").exists()


def test_a_bundle_without_labels_has_no_file_for_them(model, tmp_path):
    function = signature(lambda numbers: {"y": model(numbers)})
    saved_models.write_bundle(
        tmp_path, __file__, "sentencepiece", (), model.variables, function, ["float32"]
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"float32.tflite", "requirements.txt", "run.py"}


@dataclass(frozen=True)
class Config:
    data: str = "data/mine"
    weights: str | None = None
    word_vectors: tuple[str, ...] = ()


def test_a_card_tells_no_folders_of_weights():
    config = Config(weights="/home/me/a.h5", word_vectors=("/home/me/b.npz", "c.txt"))
    assert saved_models.card_config(config, "weights") == {
        "data": "data/mine",
        "weights": "a.h5",
        "word_vectors": ("/home/me/b.npz", "c.txt"),
    }
    card = saved_models.card_config(config, "word_vectors")
    assert card["word_vectors"] == ("b.npz", "c.txt")
    assert saved_models.card_config(Config(), "weights")["weights"] is None
