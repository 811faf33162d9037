"""Predictors: the same function for a run, a SavedModel, an edge bundle or a server.

A predictor takes a list of raw inputs, such as encoded images or texts. It returns
named NumPy arrays with one entry per input.
"""

import base64
import dataclasses
import importlib.util
import inspect
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from apps.common import datasets, noise, runs
from apps.common.errors import BadInput, first_line

Predictor = Callable[[Sequence[Any]], dict[str, np.ndarray]]

TIMEOUT_SECONDS = 60
# gRPC's default of 4 MB is too small for a batch of images.
MAX_MESSAGE_BYTES = 1 << 30
# Exceptions that reading a damaged model file raises.
DAMAGED_FILE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile)
# From the name of a signature to its predictor; raises `UnknownSignature`.
LoadSignature = Callable[[str], Predictor]


class UnknownSignature(BadInput):
    """A model has no signature of this name."""


class RefusedInput(BadInput):
    """A model answered one of the inputs with an error.

    Args:
        number: The number of the input in the request, from 1.
        sentence: The error.
    """

    def __init__(self, number, sentence):
        super().__init__(f"input {number}: {sentence}")
        self.number = number
        self.sentence = sentence


def load_predictor(
    where: str,
    application: str,
    load_signatures: Callable[[Path], Mapping[str, Any]],
    signature: str = "serving_default",
) -> Predictor:
    """Returns the predictor of a model.

    The predictor raises `RefusedInput` if the model answers an input with an error. Its
    answers have no `errors`, so that they are the same for every kind of model.

    Args:
        where: A run directory; a SavedModel directory such as `saved_models/APP/1`; an
            `edge` bundle or one of its `.tflite` files; or a model of TensorFlow
            Serving, `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`,
            optionally followed by `/versions/NUMBER`.
        application: The name of the application, such as "translation".
        load_signatures: The application's function from a run directory to its exported
            functions by name, each a `tf.function` of one input.
        signature: The exported function to call. The program of an edge bundle takes
            it as an argument if it is not the default.

    Raises:
        BadInput: There is no model, it is another application's, it has no such
            signature, or its server does not answer.
    """
    path = Path(where)
    bundle = path / "model.tflite"
    if bundle.exists() or (path.suffix == ".tflite" and path.is_file()):
        _check_application(where, application, about(where))
        return _edge(bundle if bundle.exists() else path, signature)
    if load := _exported(where):
        _check_application(where, application, _ask_about(load))
        return _without_errors(load(signature))
    if (path / "model.keras").exists():
        return _without_errors(_run(path, load_signatures, signature))
    raise BadInput(
        f"--model {where} is no model; expected a run directory, a SavedModel "
        "directory, an edge bundle or its .tflite file, or the http:// or grpc:// "
        "address of a served model"
    )


def about(model: str) -> dict[str, Any] | None:
    """Returns what a model records of itself, or None if it records nothing.

    Args:
        model: As `load_predictor` takes it.

    Returns:
        The `config` of the training and the names of the `classes`, if there are any.
        An exported model also has the names of the `application` and of the model,
        `name`; the number of its `version`; its `limits`; and texts: how it was
        trained, `training`, and its `signatures`. What the card of an earlier export
        lacks is None. Some have a `confidence`, the score from which on answers are
        shown.

    Raises:
        BadInput: A server does not answer, or a SavedModel is damaged.
    """
    record = training_record(model)
    if record is None:  # An address, or a SavedModel that was copied alone.
        load = _exported(model)
        return load and _ask_about(load)
    if (record / "config.json").exists():
        classes = record / "classes.json"
        return {
            "config": json.loads((record / "config.json").read_text()),
            "classes": json.loads(classes.read_text()) if classes.exists() else [],
        }
    card = json.loads((record / "card.json").read_text())
    names = ("application", "name", "version", "classes", "config", "limits")
    facts = card.get("facts", {})
    return {
        **{name: card.get(name) for name in names},
        **{name: card[name] for name in ("confidence",) if name in card},
        **{name.lower(): facts.get(name) for name in ("Training", "Signatures")},
    }


def _ask_about(load):
    """Returns the answer of the signature `about` of an exported model, or None."""
    try:
        predictor = load("about")
    except UnknownSignature:  # An earlier version exported it.
        return None
    return json.loads(predictor([""])["about"][0])


def _check_application(model, application, description):
    """Refuses a model that records another application.

    Args:
        model: As `load_predictor` takes it.
        application: The name of the application that uses it.
        description: From `about`.

    Raises:
        BadInput: The model is another application's.
    """
    found = description and description.get("application")
    if found and found != application:
        raise BadInput(
            f"--model {model} serves {found}, not {application}; pass another model, "
            f"or use python -m apps.{found}"
        )


def application_name(config_class: type) -> str:
    """Returns the name of the application that has this class of configurations."""
    return config_class.__module__.split(".")[-2]


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
        model: As `load_predictor` takes it. A server does not tell which examples were
            held out. The splits are drawn again, and are the same as long as the data
            is.
        data: Data to use instead of the training's. If that has been moved, its new
            path, with the same last name.
        **settings: Other settings to change; None keeps the training's.

    Raises:
        BadInput: `data` is missing, and the model does not record it, or the recorded
            data is not there. The model is another application's.
    """
    description = about(model)
    if description is None:
        if not data:
            raise BadInput(
                f"--model {model} does not record what it was trained on; add --data, "
                "or inputs to predict"
            )
        return DataSettings(_replaced(config_class(data), settings), True, {})
    _check_application(model, application_name(config_class), description)
    trained: Any = runs.make_config(config_class, description["config"])
    config = _replaced(trained, {"data": data, **settings})
    record = training_record(model)
    held_out = runs.read_held_out(record) if record else {}
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


def as_predictor(
    function: Callable[[tf.Tensor], Mapping[str, tf.Tensor]],
    dtype: tf.DType | None = None,
) -> Predictor:
    """Returns the predictor that calls a function of tensors.

    Args:
        function: From a tensor to tensors by name.
        dtype: The type of its argument. Defaults to that of the inputs, which an empty
            list does not have.
    """

    def predict(inputs):
        answers = function(tf.constant(inputs, dtype))
        return {name: value.numpy() for name, value in answers.items()}

    return predict


def _without_errors(predictor):
    """Returns a predictor that raises the first of its `errors`, if there are any."""

    def predict(inputs):
        answers = predictor(inputs)
        for number, error in enumerate(answers.pop("errors", ()), start=1):
            if error:
                raise RefusedInput(number, error.decode())
        return answers

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

    Raises:
        BadInput: An input was answered with an error; its number is that among all.
    """
    inputs = iter(inputs)
    answers = []
    while batch := list(itertools.islice(inputs, batch_size)):
        try:
            answers.append(predictor(batch))
        except RefusedInput as error:
            number = len(answers) * batch_size + error.number
            raise RefusedInput(number, error.sentence) from error
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
        raise UnknownSignature(
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
    function = _choose(signatures, signature, path)
    (spec,) = function.input_signature
    return as_predictor(function, spec.dtype)


def _exported(where) -> LoadSignature | None:
    """Opens a SavedModel or a served model; returns None for other models."""
    if where.startswith(("http://", "https://")):
        return _rest(where.rstrip("/"))
    if where.startswith("grpc://"):
        return _grpc(where)
    if (Path(where) / "saved_model.pb").exists():
        return _saved_model(Path(where))
    return None


def _saved_model(path):
    if b"Sentencepiece" in (path / "saved_model.pb").read_bytes():
        import tensorflow_text  # noqa: F401, registers the tokenizer's operations.
    try:
        loaded = tf.saved_model.load(str(path))
    except (*DAMAGED_FILE, tf.errors.OpError) as error:
        raise BadInput(
            f"--model {path} cannot be loaded as a SavedModel ({first_line(error)}); "
            "export it again"
        ) from error

    def load(signature):
        function = _choose(loaded.signatures, signature, path)
        ((input_name, spec),) = function.structured_input_signature[1].items()
        predict: Any = as_predictor(
            lambda inputs: function(**{input_name: inputs}), spec.dtype
        )
        predict.model = loaded  # Keeps its variables alive.
        return predict

    return load


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


def _rest(url):
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
            reason = _reason(str(content.get("error", content)))
            raise BadInput(f"--model {url} answered: {reason}")
        return content

    try:
        signatures = call("GET", f"{url}/metadata")["metadata"]["signature_def"]
        signatures = signatures["signature_def"]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"--model {url} is no model of TensorFlow Serving; correct the address"
        ) from error

    def load(name):
        signature = _choose(signatures, name, url)
        (input_name,) = signature["inputs"]

        def predict(inputs):
            outputs = call(
                "POST",
                f"{url}:predict",
                json={
                    "signature_name": name,
                    "inputs": {input_name: [_to_json(each) for each in inputs]},
                },
            )["outputs"]
            if len(signature["outputs"]) == 1:  # The server drops a single name.
                outputs = {next(iter(signature["outputs"])): outputs}
            return {
                output: _from_json(value, signature["outputs"][output])
                for output, value in outputs.items()
            }

        return predict

    return load


def _reason(message):
    """Returns the sentence of a check in the graph, or else the first line."""
    check = re.search(r"assertion failed: \[(.*?)\](.*)", message)
    return check[1] + check[2] if check else message.partition("\n")[0]


def _to_json(value):
    """Returns one input, a string, a number or an array, as the REST API takes it."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _from_json(value, output):
    """Returns the array that an output of the REST API stands for.

    Args:
        value: Nested lists of numbers, strings, or objects with base64.
        output: The output in the metadata of the signature.
    """

    def decode(value):
        if isinstance(value, list):
            return [decode(each) for each in value]
        if isinstance(value, dict):  # The output's name ends in `_bytes`.
            return base64.b64decode(value["b64"])
        return value.encode()

    dtype = tf.as_dtype(types_pb2.DataType.Value(output["dtype"]))
    if value == []:  # An empty list does not tell the other axes.
        axes = output["tensor_shape"].get("dim", [])[1:]
        sizes = [max(0, int(axis.get("size", 0))) for axis in axes]
        return np.zeros([0, *sizes], dtype.as_numpy_dtype)
    if dtype == tf.string:
        value = decode(value)
    return np.array(value, dtype.as_numpy_dtype)


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
            reason = _reason(error.details())
            raise BadInput(f"--model {where} answered: {reason}") from error

    metadata = call(
        service.GetModelMetadata,
        get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        ),
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    metadata.metadata["signature_def"].Unpack(signatures)

    def load(name_of_signature):
        signature = _choose(signatures.signature_def, name_of_signature, where)
        ((input_name, tensor),) = signature.inputs.items()

        def predict(inputs):
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = name_of_signature
            if len(inputs) and isinstance(inputs[0], np.ndarray):
                inputs = np.stack(inputs)  # Lists of arrays are refused.
            request.inputs[input_name].CopyFrom(
                tf.make_tensor_proto(inputs, tensor.dtype)
            )
            outputs = call(service.Predict, request).outputs
            return {output: tf.make_ndarray(value) for output, value in outputs.items()}

        return predict

    return load
