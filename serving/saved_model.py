"""SavedModels as the server runs them: signatures, and what they cannot run."""

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow.python.framework import op_def_registry

from serving.codec import type_name
from serving.status import ServingError, invalid, tensorflow_errors

DEFAULT_SIGNATURE = "serving_default"
# A function counts as quick if none of its last calls took longer, in seconds.
QUICK_SECONDS = 1e-3
# A graph that takes longer to prepare, in seconds, is not prepared for quick calls.
MAX_MAKE_SECONDS = 0.2
# How much one more call counts for the estimate of the slowest call.
_FORGETTING = 0.95
# The server is built without Python.
_PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
# Operations whose work depends on the values of their inputs, not only on their size.
_UNBOUNDED_OPS = re.compile(
    "(Stateless)?While|Enter|NextIteration|Range|LinSpace|Fill|BroadcastTo|Tile"
    "|Pad(V2)?|MirrorPad|OneHot|ScatterNd|SparseToDense|.*Bincount|.*Random.*|Resize.*"
    "|Decode.*|.*Dataset.*"
)
# Loaders fill the graph of a session, and names of its operations must not mix.
_loading = threading.Lock()


class Function:
    """Calls a signature for some of its outputs.

    Args:
        session: A session with the model.
        feeds: The names of the tensors that are fed.
        fetches: The names of the tensors that are returned.
        timeout_seconds: How long a call may take.
        is_bounded: Whether the size of the inputs bounds the time of a call. Quick
            calls have no timeout.
    """

    def __init__(
        self,
        session: tf.compat.v1.Session,
        feeds: Sequence[str],
        fetches: Sequence[str],
        timeout_seconds: float,
        is_bounded: bool,
    ) -> None:
        start = time.perf_counter()
        self._session = session
        self._options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        self._options.run_options.timeout_in_ms = int(timeout_seconds * 1000)
        self._call: Callable[..., list[np.ndarray]] = (
            session._make_callable_from_options(self._options)
        )
        self._call_quickly: Callable[..., list[np.ndarray]] | None = None
        # Making it quick stops the process for as long as this took.
        takes_long = time.perf_counter() - start > MAX_MAKE_SECONDS
        self._may_be_quick = is_bounded and not takes_long
        self._slowest = 1.0

    @property
    def is_quick(self) -> bool:
        """Whether calls take less time than a change of threads is worth."""
        return self._call_quickly is not None and self._slowest < QUICK_SECONDS

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for arrays in the order of the feeds.

        Raises:
            ServingError: The graph refuses the arrays, or takes too long.
        """
        call = self._call_quickly if self.is_quick else self._call
        assert call is not None
        start = time.perf_counter()
        with tensorflow_errors():
            try:
                outputs = call(*arrays)
            except ValueError as error:  # What the bindings refuse to convert.
                raise invalid(str(error)) from None
            finally:
                seconds = time.perf_counter() - start
                self._slowest = max(seconds, self._slowest * _FORGETTING)
        # A scalar string comes without an array.
        return [
            np.array(output, object) if isinstance(output, bytes) else output
            for output in outputs
        ]

    @property
    def could_be_quick(self) -> bool:
        """Whether it is time to call `make_quick`."""
        return self._slowest < QUICK_SECONDS and self._may_be_quick

    def make_quick(self) -> None:
        """Lets calls run the graph in their own thread, which is faster for small ones.

        It takes time, since TensorFlow optimizes the graph once more.
        """
        if not self._may_be_quick:
            return
        self._may_be_quick = False  # Once is enough.
        options = self._options
        options.run_options.Clear()
        options.run_options.inter_op_thread_pool = -1
        self._call_quickly = self._session._make_callable_from_options(options)


class SavedModel:
    """A SavedModel in memory.

    Args:
        path: The folder of the version.
        timeout_seconds: How long a call may take.

    Attributes:
        signatures: The `SignatureDef` of each signature.

    Raises:
        ServingError: A file is missing or damaged.
    """

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        meta_graph = _read_meta_graph(path)
        _check_variables(path, meta_graph)
        self.signatures = dict(meta_graph.signature_def)
        self._timeout_seconds = timeout_seconds
        self._faults, self._bounded = _inspect(meta_graph)
        self._session: tf.compat.v1.Session | None = None
        if missing := _unregistered(meta_graph):
            fault = ServingError(
                StatusCode.NOT_FOUND, f"Op type not registered '{missing}' in binary"
            )
            self._faults = dict.fromkeys(self.signatures, fault)
            return
        with _loading, tensorflow_errors():
            graph = tf.Graph()
            self._session = tf.compat.v1.Session(graph=graph)
            try:
                with graph.as_default():
                    tf.compat.v1.saved_model.loader.load(
                        self._session, [tf.saved_model.SERVING], str(path)
                    )
            except BaseException as error:
                self.close()
                if isinstance(error, (OSError, ValueError, TypeError, KeyError)):
                    raise ServingError(StatusCode.INTERNAL, str(error)) from None
                raise
        self.function = functools.lru_cache(maxsize=64)(self._function)

    def close(self) -> None:
        """Frees the memory. No call may be running or follow."""
        if self._session is not None:
            self._session.close()
        self._session = None
        self.function = self._function  # type: ignore[assignment]

    def fault(self, signature_name: str) -> ServingError | None:
        """Returns why TensorFlow Serving cannot run a signature, None if it can."""
        return self._faults.get(signature_name)

    def is_bounded(self, signature_name: str) -> bool:
        """Whether the size of its inputs bounds the time of a signature."""
        return signature_name in self._bounded

    def input_types(self, signature_name: str) -> dict[str, tf.DType]:
        """Returns the type of each input, in alphabetical order."""
        inputs = self.signatures[signature_name].inputs
        return {name: tf.as_dtype(inputs[name].dtype) for name in sorted(inputs)}

    def _function(self, signature_name: str, outputs: tuple[str, ...]) -> Function:
        """Returns the function of a signature.

        Args:
            signature_name: A key of `signatures`.
            outputs: Names of outputs. The function takes the inputs in alphabetical
                order.

        Raises:
            ServingError: The graph has no such tensors.
        """
        signature = self.signatures[signature_name]
        try:
            return Function(
                self._session,
                [signature.inputs[name].name for name in sorted(signature.inputs)],
                [signature.outputs[name].name for name in outputs],
                self._timeout_seconds,
                self.is_bounded(signature_name),
            )
        except (tf.errors.OpError, ValueError) as error:
            raise invalid(str(error)) from None


def check_types(types: Sequence[tf.DType], arrays: Sequence[np.ndarray]) -> None:
    """Checks that arrays have the types of a signature's inputs.

    Raises:
        ServingError: One has another.
    """
    for index, (expected, array) in enumerate(zip(types, arrays, strict=True)):
        provided = tf.as_dtype(array.dtype)
        if provided != expected:
            raise invalid(
                f"Expects arg[{index}] to be {type_name(expected)} but "
                f"{type_name(provided)} is provided"
            )


def _read_meta_graph(path: Path) -> meta_graph_pb2.MetaGraphDef:
    file = path / "saved_model.pb"
    try:
        content = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except OSError:
        raise ServingError(
            StatusCode.NOT_FOUND,
            "Could not find SavedModel .pb or .pbtxt at supplied export directory "
            f"path: {path}",
        ) from None
    except DecodeError:
        raise ServingError(
            StatusCode.OUT_OF_RANGE, f"{file} is no SavedModel"
        ) from None
    for meta_graph in content.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {tf.saved_model.SERVING}:
            return meta_graph
    raise ServingError(
        StatusCode.NOT_FOUND,
        "Could not find meta graph def matching supplied tags: { serve }",
    )


def _check_variables(path: Path, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Refuses a model whose variables are not there yet."""
    has_variables = any("VarHandle" in node.op for node in meta_graph.graph_def.node)
    index = path / "variables" / "variables.index"
    if has_variables and not index.is_file():
        raise ServingError(
            StatusCode.NOT_FOUND,
            f"{index} is missing; copy a version beside its folder and rename it",
        )


def _nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[Any]:
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
        yield from function.node_def


def _unregistered(meta_graph: meta_graph_pb2.MetaGraphDef) -> str | None:
    """Returns an operation that TensorFlow and TF Text do not have, None if all are."""
    known = {
        function.signature.name for function in meta_graph.graph_def.library.function
    }
    ops = {node.op for node in _nodes(meta_graph)} - known

    def unknown() -> list[str]:
        return sorted(op for op in ops if op_def_registry.get(op) is None)

    if unknown():
        # Registers its operations, which the official server has too.
        import tensorflow_text  # noqa: F401
    return next(iter(unknown()), None)


def _inspect(
    meta_graph: meta_graph_pb2.MetaGraphDef,
) -> tuple[dict[str, ServingError], set[str]]:
    """Returns which signatures the official server cannot run, and which are bounded.

    Returns:
        The error of each signature that it loads but cannot run, and the signatures
        whose time the size of their inputs bounds.
    """
    faults = {}
    bounded = set()
    for name, signature in meta_graph.signature_def.items():
        reached = list(_reached(meta_graph, signature))
        if fault := next(filter(None, map(_fault, reached)), None):
            faults[name] = fault
        if not any(
            _UNBOUNDED_OPS.fullmatch(getattr(each, "op", "")) for each in reached
        ):
            bounded.add(name)
    return faults, bounded


def _reached(
    meta_graph: meta_graph_pb2.MetaGraphDef, signature: meta_graph_pb2.SignatureDef
) -> Iterator[Any]:
    """Yields the nodes that the outputs need, and the functions that these call."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    functions = {
        function.signature.name: function
        for function in meta_graph.graph_def.library.function
    }
    names = [output.name for output in signature.outputs.values()]
    needed: dict[str, Any] = {}
    while names:
        node_name = names.pop().lstrip("^").split(":")[0]
        if node_name in nodes and node_name not in needed:
            needed[node_name] = nodes[node_name]
            names.extend(nodes[node_name].input)
    waiting = list(needed.values())
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()
        yield node
        for called in _called(node):
            if called in functions and called not in seen:
                seen.add(called)
                yield functions[called]
                waiting.extend(functions[called].node_def)


def _fault(node: Any) -> ServingError | None:
    """Returns what the official server answers if it has to run a node or function."""
    if node.attr["_XlaMustCompile"].b if "_XlaMustCompile" in node.attr else False:
        return ServingError(StatusCode.INTERNAL, "XLA compilation disabled")
    if getattr(node, "op", "") in _PYTHON_OPS:
        return invalid(
            f"No OpKernel was registered to support Op '{node.op}' used by "
            f"{{{{node {node.name}}}}}"
        )
    return None


def _called(node: Any) -> Iterator[str]:
    yield node.op
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name
