"""Predictions: from checked inputs to outputs, for both APIs."""

import asyncio
import contextlib
import os
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from grpc import StatusCode
from tensorflow.core.protobuf import meta_graph_pb2

from serving.batching import Batching
from serving.codec import Arrays, type_name
from serving.config import BatchingConfig
from serving.metrics import Metrics
from serving.models import Models, Version
from serving.saved_model import DEFAULT_SIGNATURE, Function, check_types
from serving.status import ServingError, invalid

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
# Up to this size in bytes, work is done in the event loop: it takes less time than a
# change of threads.
SMALL = 16 << 10
Result = TypeVar("Result")


class Limits(NamedTuple):
    """What bounds the work of the server.

    Attributes:
        max_requests: Requests that are answered or wait at once. Others are refused.
        max_body_bytes: Bytes of one request.
        timeout_seconds: How long an answer may take.
    """

    max_requests: int = 256
    max_body_bytes: int = 64 << 20
    timeout_seconds: float = 60.0


class Inference:
    """Runs signatures of models in threads, in batches if so configured.

    Args:
        models: The loaded models.
        limits: What bounds the work.
        batching: How to join requests, None to run each by itself.
        metrics: What is counted.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        batching: BatchingConfig | None,
        metrics: Metrics,
    ) -> None:
        self.models = models
        self.limits = limits
        self.metrics = metrics
        num_threads = 2 * (os.cpu_count() or 1)
        if batching:
            num_threads = max(num_threads, batching.num_batch_threads)
        self._threads = ThreadPoolExecutor(num_threads, "infer")
        # Large requests are read one by one, since that takes a multiple of their size.
        self._reader = ThreadPoolExecutor(1, "read")
        self._batching = Batching(batching, self._start, metrics) if batching else None
        self._turn = asyncio.Lock()
        self._num_bytes = 0
        self._num_requests = 0
        self._num_calls = 0

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()
        self._reader.shutdown()

    @contextlib.asynccontextmanager
    async def request(self, api: str, entrypoint: str) -> AsyncIterator[list[str]]:
        """Bounds, times and counts one request.

        Args:
            api: `Predict`, `Classify`, `Regress` or `MultiInference`.
            entrypoint: `REST` or `GRPC`.

        Yields:
            A list for the name of the model, which is counted if it is known.

        Raises:
            ServingError: Too many requests are being answered, or this one takes too
                long.
        """
        model_name: list[str] = []
        code = StatusCode.OK
        start = time.perf_counter()
        if max(self._num_requests, self._num_calls) >= self.limits.max_requests:
            raise ServingError(
                StatusCode.UNAVAILABLE,
                f"The server already answers {self.limits.max_requests} requests; try "
                "again later",
            )
        self._num_requests += 1
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                yield model_name
        except TimeoutError:
            code = StatusCode.DEADLINE_EXCEEDED
            raise ServingError(code, "Timed out waiting for notification") from None
        except ServingError as error:
            code = error.code
            raise
        except BaseException as error:
            is_cancelled = isinstance(error, asyncio.CancelledError)
            code = StatusCode.CANCELLED if is_cancelled else StatusCode.UNKNOWN
            raise
        finally:
            self._num_requests -= 1
            if model_name and model_name[0] in self.models:
                microseconds = (time.perf_counter() - start) * 1e6
                self.metrics.request_count.add(model_name[0], code.name)
                self.metrics.request_latency.add(
                    model_name[0], api, entrypoint, value=microseconds
                )

    def add_bytes(self, size: int) -> bool:
        """Counts bytes of requests that are in memory, if they are not too many.

        Args:
            size: How many; negative if they are no longer there.

        Returns:
            Whether they are counted.
        """
        if size > 0 and self._num_bytes + size > 4 * self.limits.max_body_bytes:
            return False
        self._num_bytes += size
        return True

    @contextlib.contextmanager
    def counted(self, size: int) -> Iterator[None]:
        """Counts bytes inside the `with` block.

        Raises:
            ServingError: They are too many.
        """
        if not self.add_bytes(size):
            raise too_many_bytes()
        try:
            yield
        finally:
            self.add_bytes(-size)

    def turn(self, size: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Lets large requests pass one at a time.

        Parsed JSON takes a multiple of its size, so only one request may have some.
        """
        return self._turn if size > SMALL else contextlib.nullcontext()

    async def convert(
        self, size: int, function: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Returns what a function returns; large work is done in a thread.

        Args:
            size: Bytes of the work.
            function: Converts between bytes and arrays.
            *arguments: Its arguments.
        """
        if size <= SMALL:
            return function(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, function, *arguments)

    async def run(
        self,
        version: Version,
        signature_name: str,
        arrays: Sequence[np.ndarray],
        outputs: Sequence[str],
        api: str = "Predict",
    ) -> Arrays:
        """Returns outputs of a signature.

        Args:
            version: The version of the model, kept in memory by the caller.
            signature_name: A signature of the model.
            arrays: The inputs, in alphabetical order of their names.
            outputs: The names of the outputs.
            api: As in `request`.

        Raises:
            ServingError: The model refuses the inputs or takes too long.
        """
        saved_model = version.saved_model
        assert saved_model is not None
        types = list(saved_model.input_types(signature_name).values())
        check_types(types, arrays)
        if fault := saved_model.fault(signature_name):
            raise fault.with_traceback(None)  # It would grow with each request.
        function = saved_model.function(signature_name, tuple(outputs))
        start = time.perf_counter()
        if self._batching and arrays:
            with version.used():
                results = await self._batching.submit(
                    version.name, function, list(arrays)
                )
        elif function.is_quick and _num_bytes(arrays) <= SMALL:
            results = function(arrays)
        else:
            version.acquire()
            call = self._start(function, arrays)
            # Also if the client leaves, the model is in use until the call ends.
            call.add_done_callback(lambda _: version.release())
            results = await asyncio.shield(call)
            if function.could_be_quick:
                self._make_quick(version, function)
        microseconds = (time.perf_counter() - start) * 1e6
        self.metrics.runtime_latency.add(version.name, api, "TF1", value=microseconds)
        return dict(zip(outputs, results, strict=True))

    def _make_quick(self, version: Version, function: Function) -> None:
        version.acquire()
        loop = asyncio.get_running_loop()
        making = loop.run_in_executor(self._reader, function.make_quick)
        making.add_done_callback(lambda _: version.release())

    def _start(
        self, function: Function, arrays: Sequence[np.ndarray]
    ) -> "asyncio.Future[list[np.ndarray]]":
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, function, arrays)
        self._num_calls += 1
        call.add_done_callback(self._end)
        return call

    def _end(self, call: "asyncio.Future[list[np.ndarray]]") -> None:
        self._num_calls -= 1
        if not call.cancelled():
            call.exception()  # Nobody may be left to read it.

    async def run_examples(
        self,
        version: Version,
        tasks: Sequence[tuple[str, str]],
        examples: np.ndarray,
        api: str,
    ) -> list[list[Any]]:
        """Returns the results of signatures that classify or regress.

        Args:
            version: The version of the model, kept in memory by the caller.
            tasks: Signature and method (`CLASSIFY` or `REGRESS`) of each.
            examples: A serialized `tf.Example` each.
            api: As in `request`.

        Returns:
            For each task and example the float32 value, or pairs of label and score.

        Raises:
            ServingError: A signature has other inputs or outputs, or the model refuses
                the examples.
        """
        saved_model = version.saved_model
        assert saved_model is not None
        results = []
        for name, method in tasks:
            signature = saved_model.signatures[name]
            check = _check_classifier if method == CLASSIFY else _check_regressor
            check(signature)
        for name, method in tasks:
            signature = saved_model.signatures[name]
            if method == CLASSIFY:
                names = [
                    key for key in ("classes", "scores") if key in signature.outputs
                ]
                outputs = await self.run(version, name, [examples], names, api)
                results.append(_classifications(outputs, len(examples)))
            else:
                outputs = await self.run(version, name, [examples], ["outputs"], api)
                results.append(_regressions(outputs["outputs"], len(examples)))
        self.metrics.example_counts.add(version.name, value=len(examples))
        self.metrics.example_count_total.add(version.name, count=len(examples))
        return results


def too_many_bytes() -> ServingError:
    """Returns the error of a request that does not fit into memory with others."""
    return ServingError(
        StatusCode.UNAVAILABLE,
        "The server receives too many large requests; try again later",
    )


def signature_of(
    signatures: Mapping[str, meta_graph_pb2.SignatureDef], name: str, error: str
) -> str:
    """Returns the name of a signature, `serving_default` if it is empty.

    Args:
        signatures: The signatures of a model.
        name: As the client named it.
        error: The message if there is none, with `{}` for the name.

    Raises:
        ServingError: There is none.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise invalid(error.format(name))
    return name


@contextlib.contextmanager
def use(
    models: Models, name: str, number: int | None = None, label: str | None = None
) -> Iterator[Version]:
    """Yields a version and keeps it in memory inside the `with` block.

    Raises:
        ServingError: There is none.
    """
    version = models.find(name, number, label)
    with version.used():
        yield version


def _num_bytes(arrays: Sequence[np.ndarray]) -> int:
    return sum(
        sum(map(len, array.flat)) if array.dtype == object else array.nbytes
        for array in arrays
    )


def _describe(signature: meta_graph_pb2.SignatureDef) -> str:
    return f"goo.gle/debugproto  \n{text_format.MessageToString(signature)}"


def _check_num_inputs(signature: meta_graph_pb2.SignatureDef) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")


def _check_input_name(signature: meta_graph_pb2.SignatureDef, kind: str) -> None:
    if "inputs" not in signature.inputs:
        raise ServingError(
            StatusCode.FAILED_PRECONDITION,
            f"No {kind} inputs found in SignatureDef: {_describe(signature)}",
        )


def _check_classifier(signature: meta_graph_pb2.SignatureDef) -> None:
    _check_num_inputs(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    _check_input_name(signature, "classification")
    if not {"classes", "scores"} & set(signature.outputs):
        raise ServingError(
            StatusCode.FAILED_PRECONDITION,
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {_describe(signature)}',
        )


def _check_regressor(signature: meta_graph_pb2.SignatureDef) -> None:
    _check_num_inputs(signature)
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    _check_input_name(signature, "regression")
    if "outputs" not in signature.outputs:
        raise ServingError(
            StatusCode.FAILED_PRECONDITION,
            f"No regression outputs found in SignatureDef: {_describe(signature)}",
        )


def _classifications(outputs: Arrays, num_examples: int) -> list[Any]:
    for name, kind in (("classes", "STRING"), ("scores", "FLOAT")):
        if name not in outputs:
            continue
        array = outputs[name]
        if array.ndim != 2:
            raise invalid(
                "Expected Tensor shape: [batch_size num_classes] but got "
                f"{_shape(array)}"
            )
        if (got := type_name(tf.as_dtype(array.dtype)).upper()) != kind:
            raise invalid(f"Expected {name} Tensor of DT_{kind}. Got: DT_{got}")
        if len(array) != num_examples:
            raise invalid(
                f"Expected {name} output batch size of {num_examples}. "
                f"Got: {len(array)}"
            )
    scores = outputs.get("scores")
    labels = outputs.get("classes")
    if labels is None:
        assert scores is not None
        labels = np.full(scores.shape, b"", object)
    if scores is None:
        scores = np.zeros(labels.shape, np.float32)
    if labels.shape != scores.shape:
        raise invalid(
            "Tensors class and score should match in dim_size(1). Got "
            f"{labels.shape[1]} vs. {scores.shape[1]}"
        )
    return [list(zip(*row, strict=True)) for row in zip(labels, scores, strict=True)]


def _regressions(values: np.ndarray, num_examples: int) -> list[Any]:
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {_shape(values)}"
        )
    if len(values) != num_examples:
        raise invalid(
            f"Input batch size did not match output batch size: {num_examples} vs. "
            f"{len(values)}"
        )
    if values.dtype != np.float32:
        raise invalid(
            "Expected output Tensor of DT_FLOAT.  Got: "
            f"DT_{type_name(tf.as_dtype(values.dtype)).upper()}"
        )
    return list(values.ravel())


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"
