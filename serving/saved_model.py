"""SavedModels as the server runs them: signatures, and what they cannot run."""

import functools
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
# Loaders fill the graph of a session, and names of its operations must not mix.
_loading = threading.Lock()


class Function:
    """Calls a signature for some of its outputs.

    Args:
        session: A session with the model.
        feeds: The names of the tensors that are fed.
        fetches: The names of the tensors that are returned.
        timeout_seconds: How long a call may take.
    """

    def __init__(
        self,
        session: tf.compat.v1.Session,
        feeds: Sequence[str],
        fetches: Sequence[str],
        timeout_seconds: float,
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
        self._is_made_quick = time.perf_counter() - start > MAX_MAKE_SECONDS
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
                return call(*arrays)
            except ValueError as error:  # What the bindings refuse to convert.
                raise invalid(str(error)) from None
            finally:
                seconds = time.perf_counter() - start
                self._slowest = max(seconds, self._slowest * _FORGETTING)

    @property
    def could_be_quick(self) -> bool:
        """Whether it is time to call `make_quick`."""
        return self._slowest < QUICK_SECONDS and not self._is_made_quick

    def make_quick(self) -> None:
        """Lets calls run the graph in their own thread, which is faster for small ones.

        It takes time, since TensorFlow optimizes the graph once more.
        """
        if self._is_made_quick:
            return
        self._is_made_quick = True
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
        self._faults = _find_faults(meta_graph)
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


def _find_faults(meta_graph: meta_graph_pb2.MetaGraphDef) -> dict[str, ServingError]:
    """Returns the signatures that the official server loads but cannot run."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    functions = {
        function.signature.name: function
        for function in meta_graph.graph_def.library.function
    }
    faults = {}
    for name, signature in meta_graph.signature_def.items():
        # Nodes of the graph that the outputs need, then the functions that these call.
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
            if fault := _fault(node):
                faults[name] = fault
                break
            for called in _called(node):
                if called in functions and called not in seen:
                    seen.add(called)
                    if fault := _fault(functions[called]):
                        faults[name] = fault
                    waiting.extend(functions[called].node_def)
    return faults


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
