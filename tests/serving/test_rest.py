"""What the REST API promises, beyond the recorded answers."""

import gzip
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving import codec
from serving.config import ModelConfig
from serving.embedded import Settings, served
from serving.status import ServingError
from tests.serving.client import client_of
from tests.serving.saved_models import save

ROW = [float(number) for number in range(1, 17)]

pytestmark = pytest.mark.models("mlp", "zoo", "edge")


def refused(answer, message, status=400):
    assert (answer.status, answer.error) == (status, message)
    assert answer.body == b'{\n    "error": ' + json.dumps(message).encode() + b"\n}"


# Paths and headers.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/models/mlp:predict"),
        ("DELETE", "/v1/models/mlp"),
        ("PATCH", "/v1/models/mlp"),
        ("GET", "/v1/models/mlp:predict"),
        ("POST", "/v1/models/mlp:Predict"),
        ("POST", "/v1/models/mlp:predict?x=1"),
        ("POST", "/v1/models/mlp/versions/x:predict"),
        ("POST", "/v1/models/mlp/labels/a/b:predict"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/mlp/"),
        ("GET", "/v1/models/mlp/metadata?x=1"),
        ("GET", "/v1/models/mlp/metadata/"),
        ("GET", "/v1/models/../../etc/passwd"),
        ("GET", "/v1/"),
    ],
)
def test_a_malformed_request_is_refused(server, method, path):
    refused(server.request(method, path), f"Malformed request: {method} {path}")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/models/mlp", "/metrics", "/etc/passwd"]
)
def test_nothing_is_outside_the_api(server, path):
    answer = server.request("GET", path)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "text/html"


def test_names_and_labels_are_decoded(server):
    assert server.get("m%6Cp").status == 200
    request = {"instances": [ROW]}
    assert server.post("mlp/labels/st%61ble:predict", request).status == 200
    name = "..%2F..%2Fetc%2Fpasswd"
    refused(
        server.get(name), "Could not find any versions of model ../../etc/passwd", 404
    )
    refused(
        server.predict(name, request),
        "Servable not found for request: Latest(../../etc/passwd)",
        404,
    )


def test_a_model_that_is_not_there_has_no_labels(server):
    message = "Unrecognized servable version label: x"
    refused(server.predict("nope/labels/x", {"instances": [1]}), message)
    refused(server.get("nope/labels/x/metadata"), message)


def test_a_version_beyond_64_bits_is_refused(server):
    path = f"mlp/versions/{2**63}"
    refused(server.get(path), f"Failed to convert version: {2**63} to numeric.")


def test_options_need_an_origin(server):
    path = "/v1/models/mlp:predict"
    assert server.request("OPTIONS", path).status == 400
    origin = {"Origin": "http://example.org"}
    assert server.request("OPTIONS", path, headers=origin).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/json; x=y"])
def test_the_content_type_is_ignored(server, content_type):
    body = json.dumps({"instances": [ROW]})
    headers = {"Content-Type": content_type}
    answer = server.request("POST", "/v1/models/mlp:predict", body, headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert answer.headers["Connection"] != "close"


def test_bodies_may_be_compressed_or_in_chunks(server):
    body = json.dumps({"instances": [ROW]}).encode()
    path = "/v1/models/mlp:predict"
    expected = server.request("POST", path, body).json
    gzipped = {"Content-Encoding": "gzip"}
    assert server.request("POST", path, gzip.compress(body), gzipped).json == expected
    chunks = iter([body[:5], body[5:9], body[9:]])
    assert server.request("POST", path, chunks).json == expected
    refused(
        server.request("POST", path, b"no gzip", gzipped),
        "JSON Parse error: The document is empty",
    )


# Requests.


def test_what_follows_the_object_is_ignored(server):
    text = json.dumps({"instances": [ROW]})
    for rest in (" rest", "}", "\n\n{}", "\0"):
        assert server.predict("mlp", text + rest).status == 200


def test_the_first_of_repeated_names_counts(server):
    ones, twos = '{"x": 1, "z": 1}', '{"x": 2, "z": 2}'
    named = '"signature_name": "named"'
    for text in (
        f'{{{named}, "instances": [{ones}], "instances": [{twos}]}}',
        f'{{{named}, "signature_name": "no", "instances": [{ones}]}}',
        f'{{{named}, "instances": [{{"x": 1, "z": 1, "x": 7}}]}}',
    ):
        answer = server.predict("edge", text)
        assert (answer.status, answer.json) == (200, {"predictions": [2.0]})


@pytest.mark.parametrize("rest", [', "inputs": []', ', "x": 1'])
def test_other_keys_are_ignored_unless_both_are_there(server, rest):
    answer = server.predict("mlp", f'{{"instances": [{ROW}]{rest}}}')
    assert answer.status == (400 if "inputs" in rest else 200)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"signature_name": 1, "instances": [1]},
            "not formatted correctly. 'signature",
        ),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": 1}, "Expecting 'instances' to be an list/array"),
        ({"instances": [{"x": [1]}, [1]]}, "does not have named input: x"),
        (
            {"inputs": 1, "instances": 1},
            "expecting only one of 'inputs' or 'instances'",
        ),
        (
            {"inputs": {"x": 1}},
            "Missing named input: keras_tensor_4 in 'inputs' object.",
        ),
        (
            {"instances": [[1.0], {"x": 1}]},
            "Expecting value/list but got object at item 1",
        ),
        (
            {"instances": [[None]]},
            "JSON Value: null Type: Null is not of expected type",
        ),
        (
            {"instances": [[True]]},
            "JSON Value: true Type: True is not of expected type",
        ),
        ({"instances": [[[1.0]], [1.0]]}, "Expecting shape [1,1] but got: [1]"),
        ({"inputs": [[1.0], 1.0]}, "found at incorrect level: 2 in the JSON DOM"),
        (
            {"inputs": [1.0, [1.0]]},
            "Encountered list at unexpected level: 1 expected < 1",
        ),
        ({"inputs": [[1.0, 2.0]]}, "Matrix size-incompatible: In[0]: [1,2], In[1]: ["),
        ([1, 2], "JSON Value: [1, 2] Is not object"),
    ],
    ids=str,
)
def test_a_wrong_request_is_refused(server, request_, message):
    answer = server.predict("mlp", request_)
    assert answer.status == 400
    assert message in answer.error


def test_several_inputs_need_exactly_their_names(server):
    x, image = [1, 2, 3, 4], {"b64": "AA=="}
    for instance, message in (
        ({"x": x}, "keys must be equal to: img_bytes,x"),
        ({"x": x, "img_bytes": image, "y": 1}, "does not have named input: y"),
        (x, "instances is a plain list, but expecting list of objects"),
        (image, "instances is a plain list, but expecting list of objects"),
    ):
        answer = server.predict("zoo", {"instances": [instance]})
        assert answer.status == 400
        assert message in answer.error


@pytest.mark.parametrize("value", [{"b64": "/wBhYg=="}, {"b64": "/wBhYg"}, "ÿ\0ab"])
def test_strings_are_text_or_base64(server, value):
    answer = server.predict("zoo", {"instances": [{"x": [1] * 4, "img_bytes": value}]})
    (prediction,) = answer.json["predictions"]
    assert prediction["len"] == (5 if isinstance(value, str) else 4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"b64": "#"}, "Unable to base64 decode"),
        ({"b64": "A"}, "Unable to base64 decode"),
        ({"b64": 1}, "not formatted correctly for base64 data"),
        ({"b64": "AA==", "x": 1}, "not formatted correctly for base64 data"),
        ({}, "not formatted correctly for base64 data"),
        (1, "JSON Value: 1 Type: Number is not of expected type: string"),
    ],
    ids=str,
)
def test_other_strings_are_refused(server, value, message):
    answer = server.predict("zoo", {"inputs": {"x": [[1] * 4], "img_bytes": [value]}})
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize(
    ("signature", "text", "expected"),
    [
        ("u8", "[255, 256, -1, 2147483647]", [255, 0, 255, 255]),
        ("u8", "[2147483648]", None),
        ("u8", "[1.0]", None),
        ("u8", "[true]", None),
        ("scal", "[1e39]", math.inf),
        ("scal", "[18446744073709551615]", 1.84467441e19),
        ("scal", "[1e400]", None),
        ("scal", "[nan]", None),
        ("scal", "[-Infinity, 1]", -math.inf),
        ("scal", "[-Inf]", -math.inf),
        ("half", "[1.0]", 501),
    ],
)
def test_numbers_have_the_types_of_the_signature(server, signature, text, expected):
    body = f'{{"signature_name": "{signature}", "inputs": {text}}}'
    answer = server.predict("edge", body)
    if expected in (None, 501):
        assert answer.status == (expected or 400)
    else:
        assert (answer.status, answer.json) == (200, {"outputs": expected})


def test_no_uint16_is_read_from_json():
    for value in ([1], ["a"], 1):
        with pytest.raises(ServingError, match=r"Conversion of JSON Value: .* uint16"):
            codec.read_tensor(value, tf.uint16)


def test_a_failed_assertion_of_the_graph_is_quoted(server):
    answer = server.predict(
        "edge", {"signature_name": "asrt", "inputs": [[-1.0, -1.0]]}
    )
    assert answer.status == 400
    assert "assertion failed: " in answer.error


# Answers.


def test_outputs_of_different_batch_sizes_have_no_rows(server):
    request = {"signature_name": "mism", "instances": [1.0, 2.0]}
    answer = server.predict("edge", request)
    assert answer.status == 400
    message = "Tensor name: y has inconsistent batch size: 2 expecting: 4"
    assert answer.error == message
    request["inputs"] = request.pop("instances")
    answer = server.predict("edge", request)
    assert (answer.status, {*answer.json["outputs"]}) == (200, {"y", "z"})


def test_floats_read_back_as_they_were(server):
    generator = np.random.default_rng(0)
    values = (
        generator.normal(size=200) * 10.0 ** generator.integers(-30, 30, 200)
    ).astype("float32")
    request = {"signature_name": "dyn", "inputs": [[float(value)] for value in values]}
    answer = server.predict("edge", request)
    np.testing.assert_array_equal(np.array(answer.json["outputs"], "float32"), values)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10, b"10.0"),
        (0.1, b"0.1"),
        (1e6, b"1e+06"),
        (123456, b"123456.0"),
        (1234567, b"1234567.0"),
        (1e-5, b"1e-05"),
        (1 / 3, b"0.333333343"),
        (-0.0, b"-0.0"),
    ],
)
def test_floats_have_as_few_digits_as_they_need(server, value, text):
    request = {"signature_name": "dyn", "inputs": [[value]]}
    assert b"[" + text + b"]" in server.predict("edge", request).body.replace(
        b"\n", b""
    ).replace(b" ", b"")


class Joined(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def __call__(self, x):
        return {"y": tf.strings.reduce_join(x), "y_bytes": tf.strings.reduce_join(x)}


def test_a_string_may_be_a_scalar(tmp_path):
    save(Joined(), tmp_path / "model/1")
    models = [ModelConfig("model", tmp_path / "model")]
    with served(Settings(models, rest_port=0, grpc_port=0)) as ports:
        client = client_of(ports)
        answer = client.predict("model", {"inputs": ["a", "b"]})
        assert answer.json["outputs"] == {"y": "ab", "y_bytes": {"b64": "YWI="}}
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "model"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([b"a", b"b"]))
        answer = client.predictions.Predict(request)
        assert tf.make_ndarray(answer.outputs["y"]) == b"ab"


# Classify and regress.


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        (
            {"examples": [{"x": [1.0, 2]}]},
            "Unexpected element type in feature: x expecting",
        ),
        ({"examples": [{"x": [None]}]}, "element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1.0]]}]}, "element with unexpected JSON type: Array"),
        (
            {"examples": [{"x": [2**63]}]},
            "has uint64 element. Only int64 is supported.",
        ),
        ({"signature_name": "no", "examples": [{}]}, "with the name: no"),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_wrong_examples_are_refused(server, verb, request_, message):
    answer = server.post(f"zoo:{verb}", {"signature_name": "reg", **request_})
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_the_number_of_inputs_is_checked_first(server, verb):
    refused(
        server.post(f"zoo:{verb}", {"examples": [{}]}), "Expected one input Tensor."
    )


def test_the_context_is_part_of_each_example(server):
    request = {"signature_name": "reg", "context": {"x": [1.0, 2.0, 3.0, 4.0]}}
    answer = server.post("zoo:regress", {**request, "examples": [{}, {}]})
    assert (answer.status, answer.json) == (200, {"results": [10.0, 10.0]})
