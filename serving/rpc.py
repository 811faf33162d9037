"""The gRPC API: prediction, models and health."""

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import codec
from serving.config import model_configs
from serving.inference import CLASSIFY, REGRESS, Inference, signature_of, use
from serving.models import Version
from serving.saved_model import DEFAULT_SIGNATURE
from serving.status import ServingError, invalid

_SIGNATURES = "signature_def"


class Rpc:
    """The gRPC server.

    Args:
        inference: The models and what runs them.
        poll_seconds: How often the folders of models are looked at.
    """

    def __init__(self, inference: Inference, poll_seconds: float) -> None:
        limit = inference.limits.max_body_bytes
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # A second server must not take the port.
            ],
            interceptors=[_DamagedRequests()],
            maximum_concurrent_rpcs=inference.limits.max_requests,
        )
        predictions = _Predictions(inference)
        models = _Models(inference, poll_seconds)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            predictions, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def bind(self, address: str) -> int:
        """Takes an address and returns its port.

        Raises:
            OSError: The address is in use or does not belong to this machine.
        """
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from None

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new requests and waits for those that are being answered."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


class _DamagedRequests(grpc.aio.ServerInterceptor):
    """Answers INVALID_ARGUMENT to bytes that are not a valid message."""

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(handler_call_details)
        if handler is None or not handler.unary_unary:
            return handler

        def read(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                return None

        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            if request is None:
                await context.abort(
                    StatusCode.INVALID_ARGUMENT, "The request is damaged"
                )
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, read, handler.response_serializer
        )


def _answered(
    method: Callable[[Any, Any], Awaitable[Any]],
) -> Callable[[Any, Any, grpc.aio.ServicerContext], Awaitable[Any]]:
    """Makes a servicer's method of one that raises `ServingError`."""

    @functools.wraps(method)
    async def answer(self: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await method(self, request)
        except ServingError as error:
            message = error.message.encode("utf-8", "replace").decode()
            await context.abort(error.code, message)

    return answer


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    @_answered
    async def Predict(self, request: Any) -> predict_pb2.PredictResponse:  # noqa: N802
        inference = self._inference
        async with self._request("Predict", request) as version:
            saved_model = version.saved_model
            signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if signature_name not in saved_model.signatures:
                raise ServingError(
                    StatusCode.FAILED_PRECONDITION,
                    f'Serving signature key "{signature_name}" not found.',
                )
            signature = saved_model.signatures[signature_name]
            size = _check_size(request.inputs, inference.limits.max_body_bytes)
            size = max(size, request.ByteSize())
            with inference.counted(size):
                async with inference.turn(size):
                    arrays = await inference.convert(
                        size, read_inputs, request.inputs, signature
                    )
                names = filter_outputs(request.output_filter, signature)
                outputs = await inference.run(version, signature_name, arrays, names)
                del arrays
        response = predict_pb2.PredictResponse(
            model_spec=_model_spec(version, signature_name)
        )
        size = sum(array.nbytes for array in outputs.values())
        await inference.convert(size, _write_outputs, outputs, response)
        return response

    @_answered
    async def Classify(self, request: Any) -> Any:  # noqa: N802
        spec, results = await self._run_examples(request, CLASSIFY, "Classify")
        response = classification_pb2.ClassificationResponse(model_spec=spec)
        _write_classifications(results, response.result)
        return response

    @_answered
    async def Regress(self, request: Any) -> Any:  # noqa: N802
        spec, results = await self._run_examples(request, REGRESS, "Regress")
        response = regression_pb2.RegressionResponse(model_spec=spec)
        _write_regressions(results, response.result)
        return response

    @_answered
    async def MultiInference(self, request: Any) -> Any:  # noqa: N802
        _check_tasks(request.tasks)
        response = inference_pb2.MultiInferenceResponse()
        async with self._request("MultiInference", request.tasks[0]) as version:
            tasks = [
                (
                    signature_of(
                        version.saved_model.signatures,
                        task.model_spec.signature_name,
                        "Requested signature not found in model graph: {}",
                    ),
                    task.method_name,
                )
                for task in request.tasks
            ]
            results = await self._inference.run_examples(
                version, tasks, read_examples(request.input), "MultiInference"
            )
        for (name, method), result in zip(tasks, results, strict=True):
            part = response.results.add(model_spec=_model_spec(version, name))
            if method == CLASSIFY:
                _write_classifications(result, part.classification_result)
            else:
                _write_regressions(result, part.regression_result)
        return response

    @_answered
    async def GetModelMetadata(self, request: Any) -> Any:  # noqa: N802
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURES:
                raise invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with use(self._inference.models, *_wanted(request.model_spec)) as version:
            assert version.saved_model is not None
            signatures = get_model_metadata_pb2.SignatureDefMap(
                signature_def=version.saved_model.signatures
            )
        response.model_spec.CopyFrom(_model_spec(version, ""))
        response.metadata[_SIGNATURES].Pack(signatures)
        return response

    @contextlib.asynccontextmanager
    async def _request(self, api: str, request: Any) -> AsyncIterator[Any]:
        """Yields the version that a request asks for."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        wanted = _wanted(request.model_spec)
        async with self._inference.request(api, "GRPC") as model_name:
            model_name.append(wanted[0])
            with use(self._inference.models, *wanted) as version:
                yield version

    async def _run_examples(
        self, request: Any, method: str, api: str
    ) -> tuple[model_pb2.ModelSpec, list[Any]]:
        """Returns which model answered a request, and its results."""
        name = request.model_spec.signature_name
        async with self._request(api, request) as version:
            signature_name = signature_of(
                version.saved_model.signatures,
                name,
                "No signature was found with the name: {}",
            )
            (results,) = await self._inference.run_examples(
                version, [(signature_name, method)], read_examples(request.input), api
            )
        return _model_spec(version, name or DEFAULT_SIGNATURE), results


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, inference: Inference, poll_seconds: float) -> None:
        self._models = inference.models
        self._poll_seconds = poll_seconds

    @_answered
    async def GetModelStatus(self, request: Any) -> Any:  # noqa: N802
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self._models.statuses(spec.name, number):
            status = response.model_version_status.add(version=version.number)
            status.state = status.State.Value(version.state)
            if version.error:
                status.status.error_code = version.error.code.value[0]
                status.status.error_message = version.error.message
            else:
                status.status.SetInParent()
        return response

    @_answered
    async def HandleReloadConfigRequest(self, request: Any) -> Any:  # noqa: N802
        if not request.config.HasField("model_config_list"):
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        try:
            configs = model_configs(request.config)
        except ValueError as error:
            raise invalid(str(error)) from None
        await self._models.configure_and_wait(configs, self._poll_seconds)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def _wanted(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Returns name, version and label of a `ModelSpec`."""
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    number = spec.version.value if choice == "version" else None
    label = spec.version_label if choice == "version_label" else None
    return spec.name, number, label


def _model_spec(version: Version, signature_name: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=version.name, signature_name=signature_name)
    spec.version.value = version.number
    return spec


def _set(names: Any) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _check_size(inputs: Any, max_bytes: int) -> int:
    """Returns how many bytes the arrays of a request take."""
    size = 0
    for name, proto in inputs.items():
        size += codec.declared_bytes(proto)
        if size > max_bytes:
            raise invalid(f"tensor parsing error: {name}")
    return size


def read_inputs(inputs: Any, signature: Any) -> list[np.ndarray]:
    """Returns the arrays of a request, in alphabetical order of the names."""
    expected, given = set(signature.inputs), set(inputs)
    defaults = set(getattr(signature, "defaults", ()))
    if len(given) > len(expected) or (len(given) < len(expected) and not defaults):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(expected)} "
            f"len({_set(given)}) != len({_set(expected)}). Sent extra: "
            f"{_set(given - expected)}. Missing but required: {_set(expected - given)}."
        )
    if missing := expected - given - defaults:
        name = min(missing)
        raise invalid(
            f"Signature input alias: {name}(feed name: {signature.inputs[name].name}) "
            "not found in request and no default value provided. Inputs expected to be "
            f"in the request {_set(given)}, or default input alias set: "
            f"{','.join(sorted(defaults))}"
        )
    if given - expected:
        raise invalid(
            "Inputs contains invalid name. Used request inputs: "
            f"{','.join(sorted(given & expected))}, request input: "
            f"{','.join(sorted(given))}"
        )
    return [
        codec.read_proto(
            inputs[name] if name in given else signature.defaults[name], name
        )
        for name in sorted(expected)
    ]


def filter_outputs(aliases: Any, signature: Any) -> list[str]:
    """Returns the outputs that a request asks for, all if it names none."""
    for alias in aliases:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected "
                f"to be in the set {_set(signature.outputs)}."
            )
        if list(aliases).count(alias) > 1:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return sorted(aliases) or sorted(signature.outputs)


def _write_outputs(
    outputs: codec.Arrays, response: predict_pb2.PredictResponse
) -> None:
    for name, array in outputs.items():
        codec.write_proto(array, response.outputs[name])


def read_examples(message: input_pb2.Input) -> np.ndarray:
    """Returns the serialized examples of a request, its context part of each."""
    context = b""
    kind = message.WhichOneof("kind")
    examples = getattr(message, kind).examples if kind else []
    if kind == "example_list_with_context":
        context = message.example_list_with_context.context.SerializeToString()
    if not examples:
        raise invalid("Input is empty.")
    array = np.empty(len(examples), object)
    array[:] = [context + example.SerializeToString() for example in examples]
    return array


def _check_tasks(tasks: Any) -> None:
    if not tasks:
        raise invalid("Inference request must have at least one task.")
    names = [task.model_spec.name for task in tasks]
    if not all(names):
        raise invalid("Found ModelSpec with an empty model name.")
    if len(set(names)) > 1:
        raise invalid(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    signatures = [task.model_spec.signature_name or DEFAULT_SIGNATURE for task in tasks]
    for name in signatures:
        if signatures.count(name) > 1:
            raise invalid(f"Duplicate evaluation of signature: {name}")
    for task in tasks:
        if task.method_name not in (CLASSIFY, REGRESS):
            raise ServingError(
                StatusCode.UNIMPLEMENTED,
                f"Unsupported signature method_name: {task.method_name}",
            )


def _write_classifications(results: list[Any], message: Any) -> None:
    for pairs in results:
        classes = message.classifications.add().classes
        for label, score in pairs:
            classes.add(label=label.decode("utf-8", "replace"), score=score)


def _write_regressions(results: list[Any], message: Any) -> None:
    for value in results:
        message.regressions.add(value=value)
