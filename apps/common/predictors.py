"""Predictors: the same function for a run, a SavedModel, an edge bundle or a server.

A predictor takes a list of raw inputs, such as encoded images or texts. It returns
named NumPy arrays with one entry per input.
"""

import dataclasses
import importlib.util
import inspect
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from apps.common import datasets, noise, runs
from apps.common.errors import BadInput, first_line

Predictor = Callable[[Sequence[Any]], dict[str, np.ndarray]]

TIMEOUT_SECONDS = 60
# gRPC's default of 4 MB is too small for a batch of images.
MAX_MESSAGE_BYTES = 1 << 30
# Exceptions that reading a damaged model file raises.
DAMAGED_FILE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile)


def load_predictor(
    where: str,
    load_signatures: Callable[[Path], Mapping[str, Any]],
    signature: str = "serving_default",
) -> Predictor:
    """Returns the predictor of a model.

    Args:
        where: A run directory; a SavedModel directory such as `saved_models/APP/1`; an
            `edge` bundle or one of its `.tflite` files; or a model of TensorFlow
            Serving, `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`,
            optionally followed by `/versions/NUMBER`.
        load_signatures: The application's function from a run directory to its exported
            functions by name, each a `tf.function` of one input.
        signature: The exported function to call. The program of an edge bundle takes
            it as an argument if it is not the default.

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
        return _run(path, load_signatures, signature)
    raise BadInput(
        f"--model {where} is no model; expected a run directory, a SavedModel "
        "directory, an edge bundle or its .tflite file, or the http:// or grpc:// "
        "address of a served model"
    )


class DataSettings(NamedTuple):
    """The settings that load the data for a model.

    Attributes:
        config: The configuration of the training, with the data to load.
        is_other_data: Whether that is other data than the model was trained on.
        held_out: The ids of the examples that the training held out, by split; empty
            for other data.
    """

    config: Any
    is_other_data: bool
    held_out: datasets.HeldOut


def data_settings(
    config_class: type, model: str, data: str | None = None, **settings: Any
) -> DataSettings:
    """Returns the settings for loading the data on which a model is evaluated.

    They are those of the training, so that the splits are the same.

    Args:
        config_class: The application's class of configurations.
        model: As `load_predictor` takes it. A run, a version and an edge bundle record
            their training; for a server the defaults are used.
        data: Data to use instead of the training's. If that has been moved, its new
            path, with the same last name.
        **settings: Other settings to change; None keeps the training's.

    Raises:
        BadInput: `data` is missing, and the model does not record it, or the recorded
            data is not there.
    """
    record = training_record(model)
    if record is None:
        if not data:
            raise BadInput(
                f"--model {model} does not record what it was trained on; add --data, "
                "or inputs to predict"
            )
        return DataSettings(_replaced(config_class(data), settings), True, {})
    if (record / "config.json").exists():
        trained: Any = runs.load_config(config_class, record)
    else:
        card = json.loads((record / "card.json").read_text())
        trained = runs.make_config(config_class, card["config"])
    config = _replaced(trained, {"data": data, **settings})
    held_out = runs.read_held_out(record)
    is_gone = datasets.is_missing(trained.data)
    if is_gone and not data:
        raise BadInput(
            f"{trained.data}, on which --model {model} was trained, is not there; pass "
            "its new path with --data, or inputs to predict"
        )
    is_moved = is_gone and held_out and Path(data or "").name == Path(trained.data).name
    if datasets.is_same(config.data, trained.data) or is_moved:
        return DataSettings(config, False, held_out)
    return DataSettings(config, True, {})


def training_record(model: str) -> Path | None:
    """Returns the folder that records how a model was trained, or None.

    Args:
        model: As `load_predictor` takes it. The folder of a run has `config.json` and
            `classes.json`; the folder of a version or an edge bundle has `card.json`.
    """
    path = Path(model).resolve()
    if (path / "config.json").exists():
        return path
    bundle = path.parent if path.suffix == ".tflite" else path
    # A version keeps its own card; that of an edge bundle lies beside the bundle.
    for folder in (path / "assets.extra", bundle.parent):
        if (folder / "card.json").exists():
            return folder
    return None


def _replaced(config, settings):
    """Returns the configuration with those settings that are not None."""
    return dataclasses.replace(
        config, **{name: value for name, value in settings.items() if value is not None}
    )


def as_predictor(function: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]) -> Predictor:
    """Returns the predictor that calls a function of tensors."""

    def predict(inputs):
        answers = function(tf.constant(inputs))
        return {name: value.numpy() for name, value in answers.items()}

    return predict


def in_batches(
    predictor: Predictor, inputs: Iterable[Any], batch_size: int = 32
) -> dict[str, np.ndarray]:
    """Calls a predictor in batches and joins its answers.

    Args:
        predictor: From `load_predictor`.
        inputs: Raw inputs, read one batch at a time.
        batch_size: Inputs per call.

    Returns:
        The named arrays of all inputs. If batches differ in size along further axes, as
        with tokens, they are padded at the end with zeros or empty strings.
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
            f"{', '.join(known)}; export it again with that one, or choose another"
        )
    return signatures[signature]


def _run(path, load_signatures, signature):
    try:
        signatures = load_signatures(path)
    except (*DAMAGED_FILE, TypeError, KeyError, tf.errors.OpError) as error:
        raise BadInput(
            f"--model {path} cannot be loaded ({first_line(error)}); its files are "
            "damaged or from another version, so train again"
        ) from error
    return as_predictor(_choose(signatures, signature, path))


def _saved_model(path, signature):
    if b"Sentencepiece" in (path / "saved_model.pb").read_bytes():
        import tensorflow_text  # noqa: F401, registers the tokenizer's operations.
    try:
        loaded = tf.saved_model.load(str(path))
    except (*DAMAGED_FILE, tf.errors.OpError) as error:
        raise BadInput(
            f"--model {path} cannot be loaded as a SavedModel ({first_line(error)}); "
            "export it again"
        ) from error
    function = _choose(loaded.signatures, signature, path)
    (input_name,) = function.structured_input_signature[1]
    predict: Any = as_predictor(lambda inputs: function(**{input_name: inputs}))
    predict.model = loaded  # Keeps its variables alive.
    return predict


def _edge(path, signature):
    """Loads the bundle's own program, so that the shipped program is measured."""
    program = path.parent / "run.py"
    if not program.exists():
        raise BadInput(
            f"--model {path} has no run.py beside it; pass a .tflite file inside an "
            "exported edge bundle"
        )
    spec = importlib.util.spec_from_file_location(f"edge_{path.stem}", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parameters = inspect.signature(module.load_model).parameters
    if signature != "serving_default" and "signature" not in parameters:
        _choose(["serving_default"], signature, path)
    try:
        if signature == "serving_default":
            return _first_call_without_noise(module.load_model(path))
        return _first_call_without_noise(module.load_model(path, signature))
    except FileNotFoundError as error:
        raise BadInput(
            f"--model {path}: {error.filename} is missing; export the bundle again "
            f"with it, or do not use {signature}"
        ) from error
    except DAMAGED_FILE as error:
        raise BadInput(
            f"--model {path} is no complete edge bundle; export it again"
        ) from error


def _first_call_without_noise(predictor):
    """Returns a predictor whose first call does not print that it makes a delegate."""
    contexts = itertools.chain([noise.hidden], itertools.repeat(nullcontext))

    def predict(inputs):
        with next(contexts)():
            return predictor(inputs)

    return predict


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
                f"--model {url} does not answer; start the server, or correct its "
                "address"
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
            f"--model {url} is no model of TensorFlow Serving; correct the address"
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
        if isinstance(value, dict):  # The output's name ends in `_bytes`.
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
        if len(signature["outputs"]) == 1:  # The server drops a single name.
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
    address = urlsplit(where)
    name, *version = address.path.strip("/").split("/versions/")
    if version and not version[0].isdigit():
        raise BadInput(f"--model {where}: the version must be a number")
    channel = grpc.insecure_channel(
        address.netloc,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
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
                    f"--model {where} does not answer; start the server, or correct "
                    "its address"
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
