import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from apps.common import saved_models
from apps.common.errors import ExportRefused
from apps.common.saved_models import Served

RNG = np.random.default_rng(0)


def served_numbers(model, function, size=64, **options):
    """Returns one signature from `numbers` to `y`, with the variables of a model."""
    signature = tf.function(
        lambda numbers: {"y": function(numbers)},
        input_signature=[tf.TensorSpec([None, size], name="numbers")],
    )
    return Served({"serving_default": signature}, model.variables, **options)


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((64,))
    return keras.Model(inputs, keras.layers.Dense(256, "tanh")(inputs))


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
    for variable in model.variables:
        variable.assign(RNG.uniform(0.5, 1.5, variable.shape))

    folded = saved_models.fold_batch_normalization(model)
    x = RNG.normal(size=(2, 9, 7, 3)).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4)
    remaining = {variable.path.split("/")[-2] for variable in folded.variables}
    assert {"after_an_activation", "of_two"} <= remaining
    assert not {"folded_1", "folded_2"} & remaining


def test_a_graph_that_calls_python_is_refused(model, tmp_path):
    def call_python(numbers):
        return tf.numpy_function(np.sin, [model(numbers)], tf.float32)

    with pytest.raises(ExportRefused, match=r"the graph contains .*PyFunc"):
        saved_models.save(served_numbers(model, call_python), tmp_path / "1")


def test_half_precision_halves_the_variables_and_computes_in_single(model, tmp_path):
    numbers = RNG.normal(size=(3, 64)).astype("float32")
    sizes = {}
    for half, tolerance in ((False, 1e-6), (True, 5e-3)):
        path = tmp_path / str(half)
        saved_models.save(served_numbers(model, model, half=half), path)
        function = tf.saved_model.load(path).signatures["serving_default"]
        answer = function(numbers=tf.constant(numbers))["y"]
        assert answer.dtype == tf.float32
        np.testing.assert_allclose(answer, model(numbers), atol=tolerance)
        (data,) = (path / "variables").glob("*.data*")
        sizes[half] = data.stat().st_size
    assert sizes[True] == pytest.approx(sizes[False] / 2, rel=0.05)


def test_a_table_that_a_signature_uses_is_saved_along(tmp_path):
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["ant", "bee"], [1.0, 2.0]), 0.0
    )
    function = tf.function(
        lambda words: {"y": table.lookup(words)},
        input_signature=[tf.TensorSpec([None], tf.string, name="words")],
    )
    signatures = {"serving_default": function}
    with pytest.raises(AssertionError, match="untracked"):
        saved_models.save(Served(signatures, []), tmp_path / "without")
    served = Served(signatures, [], resources=[table])
    saved_models.save(served, tmp_path / "with")
    function = tf.saved_model.load(tmp_path / "with").signatures["serving_default"]
    answer = function(words=tf.constant(["bee", "cat"]))["y"]
    assert answer.numpy().tolist() == [2, 0]


def test_operations_of_functions_are_listed_too(model, tmp_path):
    saved_models.save(served_numbers(model, lambda x: tf.sin(model(x))), tmp_path / "1")
    names = saved_models.operations(tmp_path / "1")
    assert {"MatMul", "Tanh", "Sin"} <= names
    assert "Cos" not in names


def test_warm_up_requests_are_what_the_server_reads(tmp_path):
    def signature(*shape, dtype=tf.float32, name="x"):
        spec = tf.TensorSpec(shape, dtype, name=name)
        return tf.function(lambda x: {"y": x}, input_signature=[spec])

    served = Served(
        {
            "serving_default": signature(None, dtype=tf.string, name="text"),
            "tensors": signature(None, 2),
            "not_warm": signature(1),
        },
        [],
        # A list of float64 becomes what the signature takes.
        warm_up={"serving_default": ["schön", b"\xff"], "tensors": [[1.0, 2.0]]},
    )
    saved_models.write_warm_up(tmp_path, "name", served)
    path = tmp_path / "assets.extra/tf_serving_warmup_requests"
    requests = {}
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
        assert log.request.model_spec.name == "name"
        ((input_name, value),) = log.request.inputs.items()
        value = tf.make_ndarray(value)
        requests[log.request.model_spec.signature_name] = input_name, value
    assert list(requests) == ["serving_default", "tensors"]
    name, texts = requests["serving_default"]
    assert (name, texts.tolist()) == ("text", ["schön".encode(), b"\xff"])
    name, numbers = requests["tensors"]
    assert (name, numbers.dtype, numbers.tolist()) == ("x", "float32", [[1, 2]])
