"""Warm-up: requests that a version answers before it serves clients."""

from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow_serving.apis import prediction_log_pb2

from serving import rpc
from serving.saved_model import DEFAULT_SIGNATURE, SavedModel, check_types
from serving.status import ServingError, tensorflow_errors

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000


def load(path: Path, timeout_seconds: float) -> SavedModel:
    """Returns a SavedModel that has answered its warm-up requests.

    Args:
        path: The folder of the version.
        timeout_seconds: How long a call may take.

    Raises:
        ServingError: It cannot be loaded, or a request fails.
    """
    saved_model = SavedModel(path, timeout_seconds)
    try:
        _replay(saved_model, path / FILE)
    except BaseException:
        saved_model.close()
        raise
    return saved_model


def _replay(saved_model: SavedModel, file: Path) -> None:
    if not file.is_file():
        return
    with tensorflow_errors():
        for index, record in enumerate(tf.data.TFRecordDataset(str(file))):
            if index == MAX_RECORDS:
                raise ServingError(
                    StatusCode.INVALID_ARGUMENT,
                    f"{file} has more than {MAX_RECORDS} warm-up records",
                )
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
                _answer(saved_model, log)
            except DecodeError:
                raise ServingError(
                    StatusCode.DATA_LOSS, f"Record {index} of {file} is damaged"
                ) from None


def _answer(saved_model: SavedModel, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        _check(saved_model, name)
        signature = saved_model.signatures[name]
        arrays = rpc.read_inputs(request.inputs, signature)
        outputs = rpc.filter_outputs(request.output_filter, signature)
        _call(saved_model, name, arrays, outputs)
    elif kind in ("classify_log", "regress_log"):
        request = getattr(log, kind).request
        names = [request.model_spec.signature_name]
        _call_with_examples(saved_model, names, request.input)
    elif kind == "multi_inference_log":
        request = log.multi_inference_log.request
        names = [task.model_spec.signature_name for task in request.tasks]
        _call_with_examples(saved_model, names, request.input)
    else:
        raise ServingError(
            StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}"
        )


def _call_with_examples(
    saved_model: SavedModel, names: list[str], message: Any
) -> None:
    examples = rpc.read_examples(message)
    for name in names:
        name = name or DEFAULT_SIGNATURE
        _check(saved_model, name)
        outputs = sorted(saved_model.signatures[name].outputs)
        _call(saved_model, name, [examples], outputs)


def _check(saved_model: SavedModel, name: str) -> None:
    if name not in saved_model.signatures:
        raise ServingError(
            StatusCode.FAILED_PRECONDITION,
            f'Serving signature key "{name}" not found.',
        )
    if fault := saved_model.fault(name):
        raise fault


def _call(
    saved_model: SavedModel, name: str, arrays: list[Any], outputs: list[str]
) -> None:
    check_types(list(saved_model.input_types(name).values()), arrays)
    saved_model.function(name, tuple(outputs))(arrays)
