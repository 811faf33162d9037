"""What the gRPC API promises."""

import re

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

pytestmark = pytest.mark.models("mlp", "zoo", "edge")
X = np.arange(4, dtype="float32")[None]
IMAGE = np.array([b"\xff\0ab"], object)


def predict_request(model, signature="", filters=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=filters)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def refused(call, request, code, message):
    with pytest.raises(grpc.RpcError, match=re.escape(message)) as error:
        call(request, timeout=60)
    assert error.value.code() == grpc.StatusCode[code]


def test_an_answer_has_typed_fields_and_says_who_answers(server):
    answer = server.predictions.Predict(predict_request("zoo", x=X, img_bytes=IMAGE))
    assert list(answer.outputs["y"].float_val) == [6.0, 6.0]
    assert list(answer.outputs["len"].int_val) == [4]
    assert list(answer.outputs["echo_bytes"].string_val) == [b"\xff\0ab"]
    spec = answer.model_spec
    assert (spec.name, spec.version.value) == ("zoo", 1)
    assert spec.signature_name == "serving_default"


def test_the_filter_chooses_the_outputs(server):
    inputs = {"x": X, "img_bytes": IMAGE}
    answer = server.predictions.Predict(predict_request("zoo", "", ["len"], **inputs))
    assert list(answer.outputs) == ["len"]
    predict = server.predictions.Predict
    for filters, message in (
        (["no"], "output tensor alias not found in signature: no"),
        (["y", "y"], "duplicate output tensor alias: y"),
    ):
        request = predict_request("zoo", "", filters, **inputs)
        refused(predict, request, "INVALID_ARGUMENT", message)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (predict_request(""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict_request("nope"), "NOT_FOUND", "not found for request: Latest(nope)"),
        (
            predict_request("zoo", "no", x=X),
            "FAILED_PRECONDITION",
            'Serving signature key "no" not found.',
        ),
        (
            predict_request("zoo", x=X),
            "INVALID_ARGUMENT",
            "input size does not match signature: 1!=2 len({x}) != len({img_bytes,x}). "
            "Sent extra: {}. Missing but required: {img_bytes}.",
        ),
        (
            predict_request("zoo", x=X, img_bytes=IMAGE, z=X),
            "INVALID_ARGUMENT",
            "Sent extra: {z}. Missing but required: {}.",
        ),
        (predict_request("zoo", x=X, z=X), "INVALID_ARGUMENT", "alias: img_bytes(feed"),
        (
            predict_request("edge", "scal", x=X.astype("float64")),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but double is provided",
        ),
        (
            predict_request("mlp", keras_tensor_4=X),
            "INVALID_ARGUMENT",
            "Matrix size-incompatible: In[0]: [1,4], In[1]: [16",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_request_is_refused(server, request_, code, message):
    refused(server.predictions.Predict, request_, code, message)


@pytest.mark.parametrize(
    ("sizes", "values"),
    [([4], [1, 2]), ([2**40, 2**20], [1]), ([-1], [1]), ([1] * 99, [])],
)
def test_values_must_fit_the_shape(server, is_embedded, sizes, values):
    if len(sizes) > 64 and not is_embedded:
        pytest.skip("TensorFlow Serving has tensors of more than 64 dimensions")
    request = predict_request("edge", "scal")
    proto = request.inputs["x"]
    proto.dtype = 1
    proto.float_val.extend(values)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    if sizes == [4]:  # The last value is repeated.
        answer = server.predictions.Predict(request)
        assert list(answer.outputs["y"].float_val) == [7.0]
    else:
        message = "tensor parsing error: x"
        refused(server.predictions.Predict, request, "INVALID_ARGUMENT", message)


def test_versions_and_labels_choose_the_model(server):
    x = np.ones((1, 16), "float32")
    answers = []
    for choose in (
        {"version": 1},
        {"label": "stable"},
        {"version": 2},
        {"label": "canary"},
        {},
    ):
        version = (
            2 if choose.get("version", choose.get("label", 2)) in (2, "canary") else 1
        )
        name = "keras_tensor_4" if version == 2 else "keras_tensor"
        request = predict_request("mlp", **{name: x})
        if "version" in choose:
            request.model_spec.version.value = choose["version"]
        if "label" in choose:
            request.model_spec.version_label = choose["label"]
        answer = server.predictions.Predict(request)
        assert answer.model_spec.version.value == version
        answers.append(list(answer.outputs["output_0"].float_val))
    assert answers[0] == answers[1] != answers[2] == answers[3] == answers[4]
    for label, name in (("zz", "mlp"), ("", "mlp"), ("x", "nope")):
        wrong = predict_request(name)
        wrong.model_spec.version_label = label
        message = f"Unrecognized servable version label: {label}"
        refused(server.predictions.Predict, wrong, "INVALID_ARGUMENT", message)
    request.model_spec.version.value = 9
    message = "Servable not found for request: Specific(mlp, 9)"
    refused(server.predictions.Predict, request, "NOT_FOUND", message)


def test_types_that_json_does_not_have_travel(server):
    half = np.array([1.5, -2.0], "float16")
    answer = server.predictions.Predict(predict_request("edge", "half", x=half))
    assert tf.make_ndarray(answer.outputs["y"]).shape == (2,)
    x = np.array([1.0, 2.0], "float32")
    answer = server.predictions.Predict(predict_request("edge", "outhalf", x=x))
    assert answer.outputs["y"].dtype == tf.bfloat16.as_datatype_enum
    assert len(answer.outputs["y"].half_val) == 2


def test_metadata_are_the_signatures(server):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        metadata_field=["signature_def"]
    )
    request.model_spec.name = "zoo"
    answer = server.predictions.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert "clf" in signatures.signature_def
    assert answer.model_spec.version.value == 1
    for fields in ([], ["no"], ["signature_def", "no"]):
        del request.metadata_field[:]
        request.metadata_field.extend(fields)
        call = server.predictions.GetModelMetadata
        refused(call, request, "INVALID_ARGUMENT", "etadata")


def test_the_status_has_all_versions(server):
    request = get_model_status_pb2.GetModelStatusRequest()
    refused(
        server.models.GetModelStatus, request, "INVALID_ARGUMENT", "Missing ModelSpec"
    )
    request.model_spec.name = "mlp"
    statuses = server.models.GetModelStatus(request).model_version_status
    assert [(each.version, each.state) for each in statuses] == [(2, 30), (1, 30)]
    request.model_spec.version.value = 9
    message = "Could not find version 9 of model mlp"
    refused(server.models.GetModelStatus, request, "NOT_FOUND", message)


def fill(request, signature, count=2):
    request.model_spec.name = "zoo"
    request.model_spec.signature_name = signature
    add_examples(request.input, count)
    return request


def add_examples(message, count):
    for _ in range(count):
        example = message.example_list.examples.add()
        example.features.feature["x"].float_list.value.extend([1, 2, 3, 4])


def test_examples_are_classified(server):
    request = fill(classification_pb2.ClassificationRequest(), "clf")
    answer = server.predictions.Classify(request)
    first, second = answer.result.classifications
    assert [(each.label, each.score) for each in first.classes] == [
        ("neg", 0.5),
        ("pos", 0.5),
    ]
    assert first == second
    assert answer.model_spec.signature_name == "clf"
    empty = fill(classification_pb2.ClassificationRequest(), "clf", 0)
    refused(server.predictions.Classify, empty, "INVALID_ARGUMENT", "Input is empty.")


def test_examples_are_regressed(server):
    request = fill(regression_pb2.RegressionRequest(), "reg")
    answer = server.predictions.Regress(request)
    assert [each.value for each in answer.result.regressions] == [10.0, 10.0]
    context = regression_pb2.RegressionRequest(model_spec=request.model_spec)
    examples = context.input.example_list_with_context
    examples.context.CopyFrom(request.input.example_list.examples[0])
    examples.examples.add()
    answer = server.predictions.Regress(context)
    assert [each.value for each in answer.result.regressions] == [10.0]


def test_several_tasks_are_one_request(server):
    request = inference_pb2.MultiInferenceRequest()
    add_examples(request.input, 1)
    for signature, method in (("clf", "classify"), ("reg", "regress")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "zoo"
        task.model_spec.signature_name = signature
    first, second = server.predictions.MultiInference(request).results
    assert first.classification_result.classifications[0].classes[0].label == "neg"
    assert second.regression_result.regressions[0].value == 10.0
    assert second.model_spec.signature_name == "reg"
    request.tasks[1].model_spec.signature_name = "clf"
    message = "Duplicate evaluation of signature: clf"
    call = server.predictions.MultiInference
    refused(call, request, "INVALID_ARGUMENT", message)


def test_it_says_that_it_is_healthy(server, is_embedded):
    if not is_embedded:
        pytest.skip("TensorFlow Serving has no health service")
    stub = health_pb2_grpc.HealthStub(server.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == 1
