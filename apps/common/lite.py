"""TensorFlow Lite: conversion, the operations in a file, and the edge bundle."""

import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from apps.common import noise, saved_models
from apps.common.errors import ExportRefused, first_line

# Variants of a model, the leanest last.
VARIANTS = ("float32", "float16", "dynamic_range", "int8")
REQUIREMENTS = ("ai-edge-litert>=2.3,<3", "numpy>=2")  # Of every bundle.


class Bundle(NamedTuple):
    """The content of an edge bundle.

    Attributes:
        program: The Python file that becomes `run.py`.
        requirements: What the program needs besides `REQUIREMENTS`, as pip names it.
        variables: The Keras variables that the signatures use.
        signatures: `tf.function`s with an `input_signature` of static shapes, by name.
        labels: The lines of `labels.txt`; if empty, there is no such file.
        calibration: Returns inputs for `int8`: a list of arrays by input name, from
            the training data.
        write_files: Writes further files into the folder of the bundle.
    """

    program: str
    requirements: Sequence[str]
    variables: Sequence[Any]
    signatures: Mapping[str, Any]
    labels: Sequence[str] = ()
    calibration: Callable[[], Sequence[Mapping[str, Any]]] | None = None
    write_files: Callable[[Path], None] | None = None


def write_bundle(
    bundle: Bundle, folder: Path, variants: Sequence[str]
) -> dict[str, Counter[str]]:
    """Writes an edge bundle: the variants of the model, labels, program, requirements.

    Args:
        bundle: What to write.
        folder: The directory to make.
        variants: The variants of the model, of `VARIANTS`.

    Returns:
        The number of operations of each kind, for each variant.

    Raises:
        ExportRefused: A variant needs operations that no Lite interpreter has.
    """
    folder.mkdir()
    if bundle.labels:
        (folder / "labels.txt").write_text("\n".join(bundle.labels) + "\n", "utf-8")
    requirements = [*REQUIREMENTS, *bundle.requirements, ""]
    (folder / "requirements.txt").write_text("\n".join(requirements))
    shutil.copyfile(bundle.program, folder / "run.py")
    if bundle.write_files:
        bundle.write_files(folder)
    return {
        variant: convert(
            bundle.variables,
            bundle.signatures,
            folder / f"{variant}.tflite",
            variant,
            bundle.calibration,
        )
        for variant in variants
    }


def convert(
    variables: Sequence[Any],
    signatures: Mapping[str, Any],
    path: Path,
    variant: str,
    calibration: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
) -> Counter[str]:
    """Writes a `.tflite` file that needs TensorFlow Lite's own operations only.

    Args:
        variables: The Keras variables that the signatures use.
        signatures: `tf.function`s with an `input_signature` of static shapes, by name.
        path: The file to write.
        variant: `float32`, `float16` (weights of half precision), `dynamic_range`
            (8-bit weights) or `int8` (8-bit weights and activations; inputs and outputs
            stay float32).
        calibration: As in `Bundle`; `int8` needs it.

    Returns:
        The number of operations of each kind.

    Raises:
        ExportRefused: The graph needs operations that no Lite interpreter has.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved_models.save(saved_models.Served(signatures, variables), Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        # Otherwise the converter silently uses operations that need a delegate, which
        # no interpreter package contains.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if variant == "int8" and calibration:
            converter.representative_dataset = lambda: iter(calibration())
        try:
            # The converter warns, and prints what it does.
            with warnings.catch_warnings(action="ignore"), noise.hidden():
                content = converter.convert()
        except OSError:  # The disk may be full.
            raise
        except Exception as error:  # The converter raises many kinds.
            raise ExportRefused(
                f"TensorFlow Lite cannot express the {variant} model: "
                f"{first_line(error)}"
            ) from error
    counts = operations(content)
    if "UNIDIRECTIONAL_SEQUENCE_LSTM" in counts:
        content = _without_clipping(content)
    path.write_bytes(content)
    unknown = [name for name in counts if name.startswith(("Flex", "CUSTOM"))]
    if unknown:
        raise ExportRefused(
            f"the {variant} model contains {', '.join(unknown)}, which no Lite "
            "interpreter has; replace that layer"
        )
    return counts


def _without_clipping(content):
    """Returns a file whose fused LSTMs let their cells grow, as in training.

    The converter limits cells to 10, without asking.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for graph in model.subgraphs:
        for operator in graph.operators:
            if hasattr(operator.builtinOptions, "cellClip"):
                operator.builtinOptions.cellClip = 0.0
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def operations(content: bytes) -> Counter[str]:
    """Counts the operations of a `.tflite` file, by name."""
    model = schema.Model.GetRootAs(content)
    builtin = {
        number: name
        for name, number in vars(schema.BuiltinOperator).items()
        if not name.startswith("_")
    }
    names = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        custom = code.CustomCode()
        names.append(custom.decode() if custom else builtin[code.BuiltinCode()])
    return Counter(
        names[graph.Operators(i).OpcodeIndex()]
        for graph in map(model.Subgraphs, range(model.SubgraphsLength()))
        for i in range(graph.OperatorsLength())
    )
