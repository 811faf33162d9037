from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import layers
from apps.common import lite
from apps.common.errors import ExportRefused
from apps.common.lite import Bundle


def signature(function, size=4):
    """Returns a `tf.function` from `numbers`, one row of them."""
    return tf.function(
        function, input_signature=[tf.TensorSpec([1, size], name="numbers")]
    )


def serving_default(model, size=4):
    return {"serving_default": signature(lambda numbers: {"y": model(numbers)}, size)}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [("float32", 1e-5), ("float16", 1e-2), ("dynamic_range", 0.1), ("int8", 0.1)],
)
def test_a_variant_computes_what_the_model_computes(
    model, tmp_path, variant, tolerance
):
    rng = np.random.default_rng(0)
    examples = [
        {"numbers": rng.normal(size=(1, 4)).astype("float32")} for _ in range(50)
    ]
    path = tmp_path / "model.tflite"
    counts = lite.convert(
        model.variables, serving_default(model), path, variant, lambda: examples
    )
    assert counts["FULLY_CONNECTED"] == 2
    assert counts == lite.operations(path.read_bytes())
    assert ("QUANTIZE" in counts) == (variant == "int8")
    runner = Interpreter(str(path)).get_signature_runner()
    for example in examples[:5]:
        answer = runner(**example)["y"]
        assert answer.dtype == "float32"
        np.testing.assert_allclose(answer, model(example["numbers"]), atol=tolerance)


@pytest.mark.parametrize("variant", ["float32", "dynamic_range"])
def test_the_cells_of_lstms_grow_without_limit(tmp_path, variant):
    """The gates are open, so that the cells count up to 30 and down to -10."""
    layer = layers.LSTM(4, return_sequences=True)
    model = keras.Sequential([keras.Input((70, 1)), layer])
    kernel = np.repeat([[0.0, 0, 20, 0]], 4, axis=1)
    bias = np.repeat([20.0, 20, 0, 0], 4)
    layer.set_weights([kernel, np.zeros((4, 16)), bias])
    signatures = {
        "serving_default": tf.function(
            lambda numbers: {"y": model(numbers)},
            input_signature=[tf.TensorSpec([1, 70, 1], name="numbers")],
        )
    }
    path = tmp_path / "model.tflite"
    counts = lite.convert(model.variables, signatures, path, variant)
    assert counts["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    numbers = np.where(np.arange(70) < 30, 1, -1).astype("float32").reshape(1, 70, 1)
    answer = Interpreter(str(path)).get_signature_runner()(numbers=numbers)["y"]
    cells = np.concatenate([np.arange(1, 31), np.arange(29, -11, -1)])
    np.testing.assert_allclose(answer[0, :, 0], np.tanh(cells) / 2, atol=1e-2)


def test_leaner_variants_are_smaller(tmp_path):
    inputs = keras.Input((256,))
    model = keras.Model(inputs, keras.layers.Dense(512)(inputs))
    sizes = {}
    for variant in ("float32", "float16", "dynamic_range"):
        path = tmp_path / variant
        lite.convert(model.variables, serving_default(model, 256), path, variant)
        sizes[variant] = path.stat().st_size
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, rel=0.1)
    assert sizes["dynamic_range"] == pytest.approx(sizes["float32"] / 4, rel=0.1)


def test_one_file_holds_several_signatures(model, tmp_path):
    functions = {
        "once": signature(lambda numbers: {"y": model(numbers)}),
        "twice": signature(lambda numbers: {"y": 2 * model(numbers)}),
    }
    path = tmp_path / "model.tflite"
    counts = lite.convert(model.variables, functions, path, "float32")
    assert counts["FULLY_CONNECTED"] == 4
    interpreter = Interpreter(str(path))
    assert set(interpreter.get_signature_list()) == {"once", "twice"}
    numbers = np.random.default_rng(0).normal(size=(1, 4)).astype("float32")
    for name, factor in (("once", 1), ("twice", 2)):
        answer = interpreter.get_signature_runner(name)(numbers=numbers)["y"]
        np.testing.assert_allclose(answer, factor * model(numbers), rtol=1e-5)


def test_a_model_that_lite_cannot_express_is_refused(model, tmp_path):
    functions = {
        "serving_default": signature(
            lambda numbers: {"y": tf.linalg.expm(tf.eye(4) * numbers)}
        )
    }
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportRefused, match="cannot express the float32 model: "):
        lite.convert(model.variables, functions, path, "float32")
    assert not path.exists()


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_bundle_holds_its_program_and_names_its_requirements(model, tmp_path):
    folder = tmp_path / "edge"
    bundle = Bundle(
        __file__,
        ["sentencepiece>=0.2"],
        model.variables,
        serving_default(model),
        labels=["häßlich", "schön"],
        write_files=lambda folder: (folder / "more.json").write_text("[]"),
    )
    operations = lite.write_bundle(bundle, folder, ["float32", "dynamic_range"])
    assert list(operations) == ["float32", "dynamic_range"]
    assert operations["float32"]["FULLY_CONNECTED"] == 2
    assert (folder / "run.py").read_text() == Path(__file__).read_text()
    assert (folder / "labels.txt").read_text("utf-8") == "häßlich\nschön\n"
    assert (folder / "requirements.txt").read_text().splitlines() == [
        *lite.REQUIREMENTS,
        "sentencepiece>=0.2",
    ]
    assert names(folder) == {
        "dynamic_range.tflite",
        "float32.tflite",
        "labels.txt",
        "more.json",
        "requirements.txt",
        "run.py",
    }


def test_a_bundle_without_labels_has_no_file_for_them(model, tmp_path):
    bundle = Bundle(__file__, "numpy", model.variables, serving_default(model))
    lite.write_bundle(bundle, tmp_path / "edge", ["float32"])
    assert names(tmp_path / "edge") == {"float32.tflite", "requirements.txt", "run.py"}
