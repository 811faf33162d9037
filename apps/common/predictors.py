"""One way to ask a model, whatever it is.

A predictor is a function from a list of raw inputs, such as encoded images or texts,
to named numpy arrays whose first axis counts the inputs.
"""

import importlib.util
import itertools
import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from apps.common import runs
from apps.common.errors import BadInput

TIMEOUT_SECONDS = 60
MESSAGE_BYTES = 1 << 30  # gRPC's own limit of 4 MB is too small for a batch of images.


def load_predictor(where: str, load_run, signature="serving_default"):
    """Returns the predictor of a model.

    Args:
        where: A run directory; a SavedModel directory such as `saved_models/APP/1`; an
            `edge` bundle or one of its `.tflite` files; or a model of TensorFlow
            Serving, `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`,
            optionally followed by `/versions/NUMBER`.
        load_run: The application's function from a run directory to a predictor.
        signature: Which of the exported functions shall answer. What is not the default
            is handed on to the program of an edge bundle.

    Raises:
        BadInput: There is no model, it has no such signature, or its server does not
            answer.
    """
    if where.startswith(("http://", "https://")):
        return _rest(where.rstrip("/"), signature)
    if where.startswith("grpc://"):
        return _grpc(where, signature)
    path = Path(where)
    if path.suffix == ".tflite" and path.is_file():
        return _edge(path, signature)
    if (path / "model.tflite").exists():
        return _edge(path / "model.tflite", signature)
    if (path / "saved_model.pb").exists():
        return _saved_model(path, signature)
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


def training_config(config_class, model, data=None):
    """Returns the settings a model was trained with, so that splits come out alike.

    Args:
        config_class: The application's class of configurations.
        model: A run, an exported version or an edge bundle. Others tell nothing; for
            them the defaults are returned.
        data: The data set to be used instead of the one that the model was trained on.

    Raises:
        BadInput: The data set is not given, and the model does not tell it.
    """
    path = Path(model).resolve()
    folder = path.parent if path.suffix == ".tflite" else path
    if (path / "config.json").exists():
        return runs.load_config(config_class, path)
    if (folder.parent / "card.json").exists():
        card = json.loads((folder.parent / "card.json").read_text())
        return runs.make_config(config_class, card["config"])
    if data:
        return config_class("")
    raise BadInput(
        f"--model {model} does not tell what it was trained on; add --data, or "
        "inputs to predict"
    )


def in_batches(predictor, inputs, batch_size=32):
    """Asks a predictor in batches and joins its answers.

    Args:
        predictor: From `load_predictor`.
        inputs: An iterable of raw inputs; it is read as it is needed.
        batch_size: Inputs per call.

    Returns:
        The named arrays of all inputs. Where batches differ in size along further axes,
        as with tokens, they are padded at the end with zeros or empty strings.
    """
    inputs = iter(inputs)
    answers = []
    while batch := list(itertools.islice(inputs, batch_size)):
        answers.append(predictor(batch))
    return {name: _join([answer[name] for answer in answers]) for name in answers[0]}


def _join(arrays):
    """Concatenates arrays; shorter ones are padded with zeros or empty strings."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        longest = np.max(list(shapes), axis=0)
        arrays = [
            np.pad(
                array,
                [(0, 0), *((0, n) for n in longest - array.shape[1:])],
                constant_values=b"" if array.dtype == object else 0,
            )
            for array in arrays
        ]
    return np.concatenate(arrays)


def _choose(signatures, signature, where):
    known = sorted(name for name in signatures if not name.startswith("__"))
    if signature not in known:
        raise BadInput(
            f"--model {where} has no signature '{signature}', only "
            f"{', '.join(known)}; export it again with that one, or ask for another"
        )
    return signatures[signature]


def _saved_model(path, signature):
    import tensorflow as tf

    if b"Sentencepiece" in (path / "saved_model.pb").read_bytes():
        import tensorflow_text  # noqa: F401, registers the tokenizer's operations.
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:
        raise BadInput(
            f"--model {path} cannot be loaded as a SavedModel; export it again"
        ) from error
    function = _choose(loaded.signatures, signature, path)
    (input_name,) = function.structured_input_signature[1]

    def predict(inputs):
        answers = function(**{input_name: tf.constant(inputs)})
        return {name: value.numpy() for name, value in answers.items()}

    predict.model = loaded  # Its variables live as long as it does.
    return predict


def _edge(path, signature):
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
        if signature == "serving_default":
            return module.load_model(path)
        return module.load_model(path, signature)
    except FileNotFoundError as error:
        raise BadInput(
            f"--model {path}: {error.filename} is missing; export the bundle with "
            f"it, or do without {signature}"
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise BadInput(
            f"--model {path} is no whole bundle of TensorFlow Lite; export it again"
        ) from error


def _rest(url, signature_name):
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
        signatures = signatures["signature_def"]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"--model {url} is no model of TensorFlow Serving; mend the address"
        ) from error
    signature = _choose(signatures, signature_name, url)
    (input_name,) = signature["inputs"]

    def encode(each):
        if isinstance(each, bytes):
            return {"b64": base64.b64encode(each).decode()}
        return each

    def decode(value):
        if isinstance(value, list):
            return [decode(each) for each in value]
        if isinstance(value, dict):  # Of an output whose name ends in `_bytes`.
            return base64.b64decode(value["b64"])
        return value.encode()

    def predict(inputs):
        outputs = call(
            "POST",
            f"{url}:predict",
            json={
                "signature_name": signature_name,
                "inputs": {input_name: [encode(each) for each in inputs]},
            },
        )["outputs"]
        if len(signature["outputs"]) == 1:  # The server drops the only name.
            outputs = {next(iter(signature["outputs"])): outputs}
        return {
            name: np.array(decode(value), object)
            if signature["outputs"][name]["dtype"] == "DT_STRING"
            else np.array(value)
            for name, value in outputs.items()
        }

    return predict


def _grpc(where, signature):
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
    (input_name,) = _choose(signatures.signature_def, signature, where).inputs

    def predict(inputs):
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = signature
        request.inputs[input_name].CopyFrom(tf.make_tensor_proto(inputs))
        outputs = call(service.Predict, request).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}

    return predict
