"""Every signature of every released model answers as TensorFlow in process."""

import base64
import io

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import tensorflow_text  # noqa: F401  Registers operations of the text models.
from PIL import Image
from tensorflow_serving.apis import predict_pb2

from tests.serving.conftest import RELEASED, released_names


def make_inputs(name, spec):
    """Returns two values of an input, which differ, or one large image."""
    generator = np.random.default_rng(1)
    if name == "image_bytes":
        return np.array([encode_image(generator, size) for size in (80, 120)], object)
    if name == "audio_bytes":
        return np.array(
            [encode_audio(generator, size) for size in (4000, 8000)], object
        )
    if name in ("text", "question"):
        return np.array(
            ["A man sleeps: \N{SNOWMAN}".encode(), b"Two dogs play."], object
        )
    if name == "images":
        sizes = [size or 2 for size in spec.shape.as_list()[1:]]
        return generator.integers(0, 256, (1, *sizes)).astype("float32")
    if name == "samples":
        return (generator.normal(size=(2, 4000)) / 10).astype("float32")
    if name == "token_ids":
        return np.array([[5, 6, 7, 3], [8, 9, 3, 0]], "int32")
    if name == "seed":
        return np.array([3, 4])
    if name == "seed_and_attributes":
        drawn = (spec.shape[1] - 1) * [b""]
        return np.array([[b"3", *drawn], [b"4", *drawn]], object)
    if name == "latents":
        return generator.normal(size=(2, spec.shape[1])).astype("float32")
    raise AssertionError(f"no input for {name}")


def encode_image(generator, size):
    file = io.BytesIO()
    pixels = generator.integers(0, 256, (size, size, 3), "uint8")
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def encode_audio(generator, size):
    file = io.BytesIO()
    soundfile.write(file, generator.normal(size=size) / 10, 8000, format="WAV")
    return file.getvalue()


def to_json(array):
    if array.dtype != object:
        return array.tolist()
    if array.ndim > 1:
        return [to_json(row) for row in array]
    return [{"b64": base64.b64encode(value).decode()} for value in array]


def from_json(values, expected):
    """Returns the array of an output in JSON, of the type that is expected."""
    if expected.dtype != object:
        return np.array(values, expected.dtype)
    array = np.empty(expected.shape, object)
    array.flat = [to_bytes(value) for value in flatten(values)]
    return array


def flatten(values):
    if isinstance(values, list):
        return [leaf for value in values for leaf in flatten(value)]
    return [values]


def to_bytes(value):
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return value.encode()


@pytest.mark.parametrize("model", released_names())
def test_every_signature_answers_as_in_process(any_server, model):
    if any_server.get(model).status == 404:
        pytest.skip(f"the server does not have {model}")
    loaded = tf.saved_model.load(str(RELEASED / model / "1"))
    for signature_name, signature in loaded.signatures.items():
        _, specs = signature.structured_input_signature
        inputs = {name: make_inputs(name, spec) for name, spec in specs.items()}
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        expected = {name: value.numpy() for name, value in signature(**tensors).items()}
        answers = [
            ask_columns(any_server, model, signature_name, inputs, expected),
            ask_rows(any_server, model, signature_name, inputs, expected),
            ask_rpc(any_server, model, signature_name, inputs),
        ]
        for answer in answers:
            assert answer.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(answer[name], value, f"{model} {name}")


def ask_columns(server, model, signature_name, inputs, expected):
    columns = {name: to_json(value) for name, value in inputs.items()}
    answer = server.predict(
        model, {"signature_name": signature_name, "inputs": columns}
    )
    assert answer.status == 200, answer.body
    outputs = answer.json["outputs"]
    if len(expected) == 1:
        outputs = dict.fromkeys(expected, outputs)
    return {name: from_json(outputs[name], expected[name]) for name in outputs}


def ask_rows(server, model, signature_name, inputs, expected):
    columns = {name: to_json(value) for name, value in inputs.items()}
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    answer = server.predict(
        model, {"signature_name": signature_name, "instances": rows}
    )
    assert answer.status == 200, answer.body
    rows = answer.json["predictions"]
    if len(expected) == 1:
        rows = [dict.fromkeys(expected, row) for row in rows]
    return {
        name: from_json([row[name] for row in rows], expected[name]) for name in rows[0]
    }


def ask_rpc(server, model, signature_name, inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature_name
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    answer = server.predictions.Predict(request, timeout=120)
    return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
