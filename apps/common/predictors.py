"""One way to ask a model, whatever it is.

A predictor is a function from a list of raw inputs, such as encoded images or texts,
to named numpy arrays whose first axis counts the inputs.
"""

import importlib.util
import itertools
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from apps.common.errors import BadInput

TIMEOUT_SECONDS = 60
MESSAGE_BYTES = 1 << 30  # gRPC's own limit of 4 MB is too small for a batch of images.


def load_predictor(where: str, load_run):
    """Returns the predictor of a model.

    Args:
        where: A run directory; a SavedModel directory such as `saved_models/APP/1`; an
            `edge` bundle or one of its `.tflite` files; or a model of TensorFlow
            Serving, `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`,
            optionally followed by `/versions/NUMBER`.
        load_run: The application's function from a run directory to a predictor.

    Raises:
        BadInput: There is no model, or its server does not answer.
    """
    if where.startswith(("http://", "https://")):
        return _rest(where.rstrip("/"))
    if where.startswith("grpc://"):
        return _grpc(where)
    path = Path(where)
    if path.suffix == ".tflite" and path.is_file():
        return _edge(path)
    if (path / "model.tflite").exists():
        return _edge(path / "model.tflite")
    if (path / "saved_model.pb").exists():
        return _saved_model(path)
    if (path / "model.keras").exists():
        try:
            return load_run(path)
        except Exception as error:
            raise BadInput(
                f"--model {where} cannot be loaded; its files are damaged or from "
                "another version, so train again"
            ) from error
    raise BadInput(
        f"--model {where} is no model; expected a run directory, a SavedModel "
        "directory, an edge bundle or its .tflite file, or the http:// or grpc:// "
        "address of a served model"
    )


def in_batches(predictor, inputs, batch_size=32):
    """Asks a predictor in batches and joins its answers.

    Args:
        predictor: From `load_predictor`.
        inputs: An iterable of raw inputs; it is read as it is needed.
        batch_size: Inputs per call.

    Returns:
        The named arrays of all inputs.
    """
    inputs = iter(inputs)
    answers = []
    while batch := list(itertools.islice(inputs, batch_size)):
        answers.append(predictor(batch))
    return {
        name: np.concatenate([answer[name] for answer in answers])
        for name in answers[0]
    }


def _saved_model(path):
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
    except Exception as error:
        raise BadInput(
            f"--model {path} cannot be loaded as a SavedModel; export it again"
        ) from error
    (input_name,) = signature.structured_input_signature[1]

    def predict(inputs):
        answers = signature(**{input_name: tf.constant(inputs)})
        return {name: value.numpy() for name, value in answers.items()}

    predict.model = loaded  # Its variables live as long as it does.
    return predict


def _edge(path):
    """The bundle's own program answers, so that what ships is what is measured."""
    program = path.parent / "run.py"
    if not program.exists():
        raise BadInput(
            f"--model {path} has no run.py beside it; pass a .tflite file inside an "
            "exported edge bundle"
        )
    spec = importlib.util.spec_from_file_location(f"edge_{path.stem}", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.load_model(path)
    except (ValueError, OSError) as error:
        raise BadInput(
            f"--model {path} is no whole bundle of TensorFlow Lite; export it again"
        ) from error


def _rest(url):
    import base64

    import requests

    def call(method, address, **arguments):
        try:
            response = requests.request(
                method, address, timeout=TIMEOUT_SECONDS, **arguments
            )
        except requests.RequestException as error:
            raise BadInput(
                f"--model {url} does not answer; start the server or mend the address"
            ) from error
        try:
            content = response.json()
        except ValueError:
            content = {"error": f"status {response.status_code}"}
        if not response.ok:
            raise BadInput(f"--model {url} answered: {content.get('error', content)}")
        return content

    try:
        signatures = call("GET", f"{url}/metadata")["metadata"]["signature_def"]
        signature = signatures["signature_def"]["serving_default"]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"--model {url} is no model of TensorFlow Serving; mend the address"
        ) from error
    (input_name,) = signature["inputs"]

    def encode(each):
        if isinstance(each, bytes):
            return {"b64": base64.b64encode(each).decode()}
        return each

    def predict(inputs):
        outputs = call(
            "POST",
            f"{url}:predict",
            json={"inputs": {input_name: [encode(each) for each in inputs]}},
        )["outputs"]
        if len(signature["outputs"]) == 1:  # The server drops the only name.
            outputs = {next(iter(signature["outputs"])): outputs}
        return {
            name: np.array(
                [[each.encode() for each in row] for row in value]
                if signature["outputs"][name]["dtype"] == "DT_STRING"
                else value
            )
            for name, value in outputs.items()
        }

    return predict


def _grpc(where):
    try:
        import grpc
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            predict_pb2,
            prediction_service_pb2_grpc,
        )
    except ImportError as error:
        raise BadInput(
            f"--model {where} needs more packages: pip install 'keras-apps[serve]'"
        ) from error
    import tensorflow as tf

    address = urlsplit(where)
    name, *version = address.path.strip("/").split("/versions/")
    if version and not version[0].isdigit():
        raise BadInput(f"--model {where}: the version must be a number")
    channel = grpc.insecure_channel(
        address.netloc,
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_send_message_length", MESSAGE_BYTES),
        ],
    )
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def call(method, request):
        request.model_spec.name = name
        if version:
            request.model_spec.version.value = int(version[0])
        try:
            return method(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            if error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ):
                raise BadInput(
                    f"--model {where} does not answer; start the server or mend the "
                    "address"
                ) from error
            raise BadInput(f"--model {where} answered: {error.details()}") from error

    metadata = call(
        service.GetModelMetadata,
        get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        ),
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    metadata.metadata["signature_def"].Unpack(signatures)
    (input_name,) = signatures.signature_def["serving_default"].inputs

    def predict(inputs):
        request = predict_pb2.PredictRequest()
        request.inputs[input_name].CopyFrom(tf.make_tensor_proto(inputs))
        outputs = call(service.Predict, request).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}

    return predict
