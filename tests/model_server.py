"""A stand-in for TensorFlow Serving: one SavedModel behind REST and gRPC.

It answers as little as our clients ask, in the server's own formats.
"""

import base64
import json
import threading
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)


class ServedModel:
    def __init__(self, name, path):
        self.name = name
        self.loaded = tf.saved_model.load(str(path))
        content = saved_model_pb2.SavedModel.FromString(
            (path / "saved_model.pb").read_bytes()
        )
        self.signatures = get_model_metadata_pb2.SignatureDefMap(
            signature_def=content.meta_graphs[0].signature_def
        )

    def call(self, signature_name, inputs):
        """Answers a request, whose inputs are nested lists or tensors.

        Raises:
            TypeError: A tensor has another type than the signature.
        """
        signature = self.loaded.signatures[signature_name or "serving_default"]
        specs = signature.structured_input_signature[1]
        # An empty list gets the type of the signature, too.
        return signature(
            **{name: tf.constant(inputs[name], specs[name].dtype) for name in inputs}
        )


def from_json(value):
    """Reads strings that were written as text, or in base64; numbers stay."""
    if isinstance(value, list):
        return [from_json(each) for each in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def to_json(array, binary):
    """Writes the fewest digits that tell a number from others of its type.

    Bytes are written in base64 where the output's name ends in `_bytes`, else as text.
    """
    if array.dtype == object:
        return strings_to_json(array.tolist(), binary)
    if array.dtype.kind == "f":
        array = array.astype(str).astype("float64")
    return array.tolist()


def strings_to_json(value, binary):
    if isinstance(value, list):
        return [strings_to_json(each, binary) for each in value]
    return {"b64": base64.b64encode(value).decode()} if binary else value.decode()


def rest_handler(model):
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path != f"/v1/models/{model.name}/metadata":
                return self.answer(404, {"error": "Could not find any versions"})
            signatures = json_format.MessageToDict(
                model.signatures, preserving_proto_field_name=True
            )
            return self.answer(200, {"metadata": {"signature_def": signatures}})

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            inputs = {
                name: from_json(value) for name, value in request["inputs"].items()
            }
            try:
                outputs = model.call(request.get("signature_name"), inputs)
            except tf.errors.InvalidArgumentError as error:
                return self.answer(400, {"error": error.message})
            outputs = {
                name: to_json(value.numpy(), name.endswith("_bytes"))
                for name, value in outputs.items()
            }
            if len(outputs) == 1:
                (outputs,) = outputs.values()
            return self.answer(200, {"outputs": outputs})

        def log_message(self, *arguments):
            pass

    return Handler


class GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model):
        self.model = model

    def check(self, request, context):
        if request.model_spec.name != self.model.name:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")

    def GetModelMetadata(self, request, context):
        self.check(request, context)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(self.model.signatures)
        return response

    def Predict(self, request, context):
        self.check(request, context)
        inputs = {
            name: tf.constant(tf.make_ndarray(value), tf.as_dtype(value.dtype))
            for name, value in request.inputs.items()
        }
        response = predict_pb2.PredictResponse()
        try:
            outputs = self.model.call(request.model_spec.signature_name, inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


@contextmanager
def serve(name, path):
    """Serves a SavedModel directory; gives its REST and its gRPC address."""
    model = ServedModel(name, path)
    rest = ThreadingHTTPServer(("127.0.0.1", 0), rest_handler(model))
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    rpc = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        GrpcService(model), rpc
    )
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    try:
        yield (
            f"http://127.0.0.1:{rest.server_port}/v1/models/{name}",
            f"grpc://127.0.0.1:{port}/{name}",
        )
    finally:
        rest.shutdown()
        rest.server_close()
        rpc.stop(None)
