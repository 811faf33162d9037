"""Requests and answers as arrays: JSON, `TensorProto`, `tf.Example`."""

import binascii
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.framework import tensor_pb2

from serving import json_text
from serving.status import ServingError, invalid

Arrays = dict[str, np.ndarray]

MAX_RANK = 64  # What NumPy has.
_BASE64 = {"b64"}
# Those that the server reads from JSON; uint16 is not among them.
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
_INT32 = np.iinfo(np.int32)
# The names that messages of the server have.
_NAMES = {"float16": "half", "float32": "float", "float64": "double"}
_JSON_TYPES = {
    type(None): "Null",
    dict: "Object",
    json_text.Repeated: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int16": "int_val",
    "int8": "int_val",
    "uint8": "int_val",
    "uint16": "int_val",
    "float16": "half_val",
    "bfloat16": "half_val",
    "string": "string_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
}


def type_name(dtype: tf.DType) -> str:
    """Returns the name of a type in messages of the server, such as `float`."""
    return _NAMES.get(dtype.name, dtype.name)


# JSON to arrays.


def is_base64(value: Any) -> bool:
    """Whether a JSON value is an object with base64 and nothing else."""
    return type(value) is dict and value.keys() == _BASE64 and type(value["b64"]) is str


def decode_base64(value: Any) -> bytes:
    """Returns the bytes of a JSON object with base64; padding may be missing.

    Raises:
        ServingError: It is another object, or no base64.
    """
    if not is_base64(value):
        text = json_text.pretty(value)
        raise invalid(f"JSON Value: {text} not formatted correctly for base64 data")
    text = value["b64"]
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        pass
    text = "".join(text.split())
    digits = text.rstrip("=")
    padding = -len(digits) % 4
    if len(text) - len(digits) in (0, padding) and padding < 3:
        try:
            return binascii.a2b_base64(digits + "=" * padding, strict_mode=True)
        except ValueError:
            pass
    raise invalid("Unable to base64 decode")


def read_tensor(value: Any, dtype: tf.DType) -> np.ndarray:
    """Returns the array of a JSON value.

    Args:
        value: A number, a string, a boolean, an object with base64, or nested lists.
        dtype: The type of the signature.

    Raises:
        ServingError: The lists are ragged or a value has another type.
    """
    shape = _shape(value)
    array = _read_regular(value, shape, dtype)
    if array is not None:
        return array
    leaves: list[Any] = []
    _read_leaves(value, shape, 0, dtype, leaves)
    return _array(leaves, shape, dtype)


def read_rows(rows: list[Any], inputs: Mapping[str, tf.DType]) -> Arrays:
    """Returns the arrays of `instances`; the first dimension counts the instances.

    Args:
        rows: A value for each instance, or an object with a value for each input.
        inputs: The type of each input.

    Raises:
        ServingError: An instance has another shape, other names or other types.
    """
    if not _is_row_object(rows[0]) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    names = inputs.keys()
    if not _is_row_object(rows[0]):
        if not any(map(_is_row_object, rows)):
            (name,) = names
            array = _read_regular(rows, (len(rows), *_shape(rows[0])), inputs[name])
            if array is not None:
                return {name: array}
    elif all(type(row) is dict and row.keys() == names for row in rows):
        arrays = {}
        for name, dtype in inputs.items():
            column = [row[name] for row in rows]
            array = _read_regular(column, (len(rows), *_shape(column[0])), dtype)
            if array is None:
                break
            arrays[name] = array
        else:
            return arrays
    return _read_irregular_rows(rows, inputs)


def read_columns(columns: Any, inputs: Mapping[str, tf.DType]) -> Arrays:
    """Returns the arrays of `inputs`.

    Args:
        columns: The value of the only input, or an object with a value for each input.
        inputs: The type of each input.

    Raises:
        ServingError: A name is missing, or a value does not fit its type.
    """
    if isinstance(columns, dict) and not is_base64(columns):
        arrays = {}
        for name, dtype in inputs.items():
            if name not in columns:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
            arrays[name] = read_tensor(columns[name], dtype)
        return arrays
    if len(inputs) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input "
            "tensors required as per tensorinfo_map"
        )
    ((name, dtype),) = inputs.items()
    return {name: read_tensor(columns, dtype)}


def _shape(value: Any) -> tuple[int, ...]:
    """Returns the shape that the first items of nested lists have."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _read_regular(
    value: Any, shape: tuple[int, ...], dtype: tf.DType
) -> np.ndarray | None:
    """Returns the array of nested lists, None if one has another shape or type."""
    level = [value]
    for size in shape:
        if not all(type(item) is list and len(item) == size for item in level):
            return None
        level = list(itertools.chain.from_iterable(level))
    types = set(map(type, level))
    if dtype == tf.string:
        if types <= {str}:
            level = [text.encode("utf-8", "surrogateescape") for text in level]
        elif all(map(is_base64, level)):
            level = [decode_base64(item) for item in level]
        else:
            return None
    elif dtype == tf.bool:
        if not types <= {bool}:
            return None
    elif dtype in (tf.float32, tf.float64):
        if not types <= {int, float}:
            return None
    elif not (types <= {int} and dtype.name in _INTEGERS and _fit(level, dtype)):
        return None
    return _array(level, shape, dtype)


def _limits(dtype: tf.DType) -> tuple[int, int]:
    """Returns the smallest and the largest JSON integer of a type.

    Types shorter than 32 bits take them all and keep the low bits.
    """
    if dtype.size < 4:
        return _INT32.min, _INT32.max
    return dtype.min, dtype.max


def _fit(numbers: list[int], dtype: tf.DType) -> bool:
    smallest, largest = _limits(dtype)
    return not numbers or (smallest <= min(numbers) and max(numbers) <= largest)


def _array(leaves: list[Any], shape: tuple[int, ...], dtype: tf.DType) -> np.ndarray:
    if len(shape) > MAX_RANK:
        raise invalid(
            f"A tensor has at most {MAX_RANK} dimensions, but got {len(shape)}"
        )
    if dtype == tf.string:
        array = np.empty(len(leaves), object)
        array[:] = leaves
    elif dtype.is_integer and dtype.size < 4:
        array = np.array(leaves, np.int32).astype(dtype.as_numpy_dtype)
    else:
        with np.errstate(over="ignore"):  # 1e39 is infinite, as on the server.
            array = np.array(leaves, dtype.as_numpy_dtype)
    return array.reshape(shape)


def _read_leaves(
    value: Any, shape: tuple[int, ...], level: int, dtype: tf.DType, leaves: list[Any]
) -> None:
    """Appends the values of nested lists, or says which is wrong."""
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise invalid(
                f"JSON Value: {_text(value)} found at incorrect level: {level + 1} in "
                f"the JSON DOM. Expected at level: {rank}"
            )
        leaves.append(_read_leaf(value, dtype))
        return
    if level >= rank:
        raise invalid(
            f"Encountered list at unexpected level: {level} expected < {rank}"
        )
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for item in value:
        _read_leaves(item, shape, level + 1, dtype, leaves)


def _read_leaf(value: Any, dtype: tf.DType) -> Any:
    if isinstance(value, dict) and dtype == tf.string:
        return decode_base64(value)
    if dtype == tf.string:
        is_right = isinstance(value, str)
        value = value.encode("utf-8", "surrogateescape") if is_right else value
    elif dtype == tf.bool:
        is_right = isinstance(value, bool)
    elif dtype in (tf.float32, tf.float64):
        is_right = type(value) in (int, float)
    elif dtype.name in _INTEGERS:
        is_right = type(value) is int and _fit([value], dtype)
    elif isinstance(value, dict):
        is_right = False
    else:
        raise ServingError(
            StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {_text(value)} to type: {type_name(dtype)}",
        )
    if is_right:
        return value
    raise invalid(
        f"JSON Value: {_text(value)} Type: {_json_type(value)} is not of expected "
        f"type: {type_name(dtype)}"
    )


def _text(value: Any) -> str:
    """Returns the text of a JSON value in messages."""
    if type(value) is not float:
        return json_text.pretty(value)
    is_single = abs(value) <= 3.4028234e38
    return _float_texts(np.array([value], "f" if is_single else "d"))[0]


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return _JSON_TYPES[type(value)]


def _is_row_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _read_irregular_rows(rows: list[Any], inputs: Mapping[str, tf.DType]) -> Arrays:
    """Reads instances one by one, to name the first that is wrong."""
    are_objects = _is_row_object(rows[0])
    leaves: dict[str, list[Any]] = {name: [] for name in inputs}
    shapes: dict[str, tuple[int, ...]] = {}
    for index, row in enumerate(rows):
        where = f"Failed to process element: {index}"
        if not are_objects:
            if _is_row_object(row):
                raise invalid(
                    f"Expecting value/list but got object at item {index} of input list"
                )
            ((name, dtype),) = inputs.items()
            try:
                _read_item(row, name, dtype, shapes, leaves[name])
            except ServingError as error:
                raise invalid(f"{where} of 'instances' list. Error: {error}") from None
            continue
        if not _is_row_object(row):
            raise invalid(
                f"Expecting object but got list at item {index} of input list"
            )
        for name, value in json_text.members(row):
            try:
                if name not in inputs:
                    raise invalid(f"JSON object: does not have named input: {name}")
                _read_item(value, name, inputs[name], shapes, leaves[name])
            except ServingError as error:
                raise invalid(
                    f"{where} key: {name} of 'instances' list. Error: {error}"
                ) from None
        if row.keys() != inputs.keys():
            raise invalid(
                f"{where} of 'instances' list. JSON object: {json_text.pretty(row)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    arrays = {}
    for name, dtype in inputs.items():
        shape = (len(rows), *shapes[name])
        # A repeated name gives more values than the shape has. The server drops them.
        arrays[name] = _array(leaves[name][: math.prod(shape)], shape, dtype)
    return arrays


def _read_item(
    value: Any,
    name: str,
    dtype: tf.DType,
    shapes: dict[str, tuple[int, ...]],
    leaves: list[Any],
) -> None:
    """Appends one instance of an input and checks that its shape is the first one's."""
    shape = _shape(value)
    before = len(leaves)
    _read_leaves(value, shape, 0, dtype, leaves)
    expected = shapes.setdefault(name, shape)
    size = len(leaves) - before
    if size != math.prod(expected):
        raise invalid(f"Expecting tensor size: {math.prod(expected)} but got: {size}")
    if shape != expected:
        raise invalid(f"Expecting shape {_list(expected)} but got: {_list(shape)}")


def _list(sizes: Iterable[int]) -> str:
    return f"[{','.join(map(str, sizes))}]"


# Arrays to JSON.


def write_rows(outputs: Arrays) -> str:
    """Returns the JSON of an answer with a list of `predictions`.

    Raises:
        ServingError: The outputs do not have one batch dimension in common, or one has
            a type that JSON does not have.
    """
    size = None
    for name, array in sorted(outputs.items(), reverse=True):
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if size not in (None, len(array)):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} "
                f"expecting: {size}"
            )
        size = len(array)
    columns = [
        _nest(_texts(name, array), array.shape, 1) for name, array in outputs.items()
    ]
    if len(columns) == 1:
        rows = columns[0]
    else:
        heads = [f"{json_text.quote(name)}: " for name in outputs]
        rows = [
            "{" + ", ".join(map(str.__add__, heads, row)) + "}"
            for row in zip(*columns, strict=True)
        ]
    return '{\n    "predictions": [' + ", ".join(rows) + "\n    ]\n}"


def write_columns(outputs: Arrays) -> str:
    """Returns the JSON of an answer with `outputs`.

    Raises:
        ServingError: An output has a type that JSON does not have.
    """
    texts = [
        _nest(_texts(name, array), array.shape, 0)[0] for name, array in outputs.items()
    ]
    if len(texts) == 1:
        return '{\n    "outputs": ' + texts[0] + "\n}"
    lines = [
        f"\n        {json_text.quote(name)}: {text}"
        for name, text in zip(outputs, texts, strict=True)
    ]
    return '{\n    "outputs": {' + ",".join(lines) + "\n    }\n}"


def write_results(results: Iterable[Any]) -> str:
    """Returns the JSON of an answer to classify or regress.

    Args:
        results: For each example its float32 value, or pairs of a label in bytes and a
            float32 score.
    """
    texts = []
    for result in results:
        if isinstance(result, list):
            pairs = [
                f"[{_string_text(label)}, {_float_texts(np.array([score]))[0]}]"
                for label, score in result
            ]
            texts.append(f"[{', '.join(pairs)}]")
        else:
            texts.append(_float_texts(np.array([result]))[0])
    return '{\n    "results": [' + ", ".join(texts) + "]\n}"


def _nest(texts: list[str], shape: Sequence[int], axis: int) -> list[str]:
    """Joins texts into lists of this shape, down to `axis`."""
    for level in range(len(shape) - 1, axis - 1, -1):
        size = shape[level]
        texts = [
            f"[{', '.join(texts[index * size : (index + 1) * size])}]"
            for index in range(math.prod(shape[:level]))
        ]
    return texts


def _texts(name: str, array: np.ndarray) -> list[str]:
    """Returns the JSON of each value."""
    kind = array.dtype.kind
    values = array.ravel()
    if kind == "O":
        write = _base64_text if name.endswith("_bytes") else _string_text
        return list(map(write, values))
    if array.dtype in (np.float32, np.float64):
        return _float_texts(values)
    if kind == "b":
        return ["true" if value else "false" for value in values.tolist()]
    if kind in "iu" and array.dtype != np.uint16:
        return list(map(str, values.tolist()))
    dtype = type_name(tf.as_dtype(array.dtype))
    raise invalid(f"Failed to write JSON value for tensor type: {dtype}")


def _base64_text(value: bytes) -> str:
    return '{"b64": "' + binascii.b2a_base64(value, newline=False).decode() + '"}'


def _string_text(value: bytes) -> str:
    return json_text.quote(value.decode("utf-8", "surrogateescape"))


def _float_texts(values: np.ndarray) -> list[str]:
    """Returns six digits of each number where they tell it from its neighbours.

    Other float32 have nine digits, other float64 seventeen.
    """
    if not len(values):
        return []
    numbers = tuple(values.tolist())
    texts = (" ".join(["%g"] * len(numbers)) % numbers).split(" ")
    read_back = np.array(list(map(float, texts)), np.float64).astype(values.dtype)
    digits = "%.9g" if values.dtype == np.float32 else "%.17g"
    for index in np.flatnonzero(read_back != values).tolist():
        texts[index] = _NOT_FINITE_TEXTS.get(texts[index]) or digits % numbers[index]
    return [
        text
        if "." in text or "e" in text or "N" in text or "I" in text
        else text + ".0"
        for text in map(_finite_text, texts)
    ]


_NOT_FINITE_TEXTS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _finite_text(text: str) -> str:
    return _NOT_FINITE_TEXTS.get(text, text)


# TensorProto.


def declared_bytes(proto: tensor_pb2.TensorProto) -> int:
    """Returns the size of a `TensorProto` in memory.

    A few bytes can stand for any number of values.
    """
    size = math.prod(dimension.size for dimension in proto.tensor_shape.dim)
    if proto.dtype not in _PROTO_FIELDS:
        return 0
    return max(size, 0) * (tf.as_dtype(proto.dtype).size or 8)


def read_proto(proto: tensor_pb2.TensorProto, name: str) -> np.ndarray:
    """Returns the array of a `TensorProto`.

    Args:
        proto: The tensor. Fewer values than its shape has repeat the last.
        name: Its name in messages.

    Raises:
        ServingError: The values do not fit the shape or the type.
    """
    sizes = [dimension.size for dimension in proto.tensor_shape.dim]
    try:
        if (
            proto.dtype not in _PROTO_FIELDS
            or proto.tensor_shape.unknown_rank
            or min(sizes, default=0) < 0
            or len(sizes) > MAX_RANK
        ):
            raise ValueError
        if not proto.tensor_content:
            values = getattr(proto, _PROTO_FIELDS[proto.dtype])
            if not len(values):  # The server's tensors begin as zeros.
                return _zeros(sizes, tf.as_dtype(proto.dtype))
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, OverflowError):
        raise invalid(f"tensor parsing error: {name}") from None


_PROTO_FIELDS = {
    tf.as_dtype(name).as_datatype_enum: field for name, field in _FIELDS.items()
}


def _zeros(sizes: list[int], dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        return np.full(sizes, b"", object)
    return np.zeros(sizes, dtype.as_numpy_dtype)


def write_proto(array: np.ndarray, proto: tensor_pb2.TensorProto) -> None:
    """Fills a `TensorProto` with an array, values in the field of their type."""
    dtype = tf.as_dtype(array.dtype)
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    values = array.ravel()
    field = _FIELDS.get(dtype.name)
    if field is None:
        raise ServingError(
            StatusCode.UNIMPLEMENTED, f"No TensorProto for type: {type_name(dtype)}"
        )
    if field == "half_val":
        values = values.view(np.uint16)
    elif field in ("scomplex_val", "dcomplex_val"):
        values = values.view(values.real.dtype)
    getattr(proto, field).extend(values.tolist())


# tf.Example.


def read_examples(request: dict[str, Any]) -> np.ndarray:
    """Returns the serialized `tf.Example` of each of the `examples` of a request.

    Args:
        request: The JSON of classify or regress. The features of `context` are part of
            each example.

    Raises:
        ServingError: There are none, or a feature has values of several types.
    """
    context = b""
    if "context" in request:
        context = _read_example(request["context"])
    examples = request.get("examples")
    if not (isinstance(examples, list) and examples):
        if "examples" not in request:
            why = (
                "When method is classify, key 'examples' is expected and was not found"
            )
        elif isinstance(examples, list):
            why = "'examples' value is an empty array"
        else:
            why = "Expecting 'examples' value to be an list/array"
        raise invalid(f"JSON Value: {json_text.pretty(request)} {why}")
    array = np.empty(len(examples), object)
    array[:] = [context + _read_example(example) for example in examples]
    return array


def _read_example(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_json_type(value)}")
    example = tf.train.Example()
    for name, content in json_text.members(value):
        feature = example.features.feature[name]
        feature.Clear()  # The last of repeated names counts here.
        for item in content if isinstance(content, list) else [content]:
            _add_value(item, name, feature)
    return example.SerializeToString()


_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def _add_value(value: Any, name: str, feature: tf.train.Feature) -> None:
    item: Any
    if isinstance(value, bool):
        kind, item = "int64_list", int(value)
    elif isinstance(value, int):
        kind, item = "int64_list", value
        if value >= 2**63:
            raise invalid(
                f"Feature: {name} has uint64 element. Only int64 is supported."
            )
    elif isinstance(value, float):
        kind, item = "float_list", value
    elif isinstance(value, str):
        kind, item = "bytes_list", value.encode("utf-8", "surrogateescape")
    elif is_base64(value):
        kind, item = "bytes_list", decode_base64(value)
    else:
        raise invalid(
            f"Feature: {name} has element with unexpected JSON type: "
            f"{_json_type(value)}"
        )
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{_KINDS[present]}"
        )
    getattr(feature, kind).value.append(item)
