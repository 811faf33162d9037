"""SavedModels as TensorFlow Serving reads them: folding, saving, warm-up requests."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from apps.common.errors import BadInput, ExportRefused

# Operations that the stock model server does not run.
UNSERVABLE_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaCallModule"}


class Served(NamedTuple):
    """The content of a SavedModel for TensorFlow Serving.

    Attributes:
        signatures: `tf.function`s with an `input_signature`, by name.
        variables: The Keras variables that they use.
        warm_up: For each signature, the value of its input in a warm-up request: an
            array, or a list of strings.
        half: Whether to store the variables in half precision. The graph still
            computes in single precision. Then no signature may call another one.
        resources: Other objects that the signatures use, such as keras-nlp tokenizers.
    """

    signatures: Mapping[str, Any]
    variables: Sequence[Any]
    warm_up: Mapping[str, Any] = {}
    half: bool = False
    resources: Sequence[Any] = ()


def fold_batch_normalization(model: keras.Model) -> keras.Model:
    """Returns an equal model with batch normalization folded into its convolutions.

    At inference batch normalization scales and shifts each channel. The convolution
    right before it can do the same: `kernel * scale` and `bias + shift`.

    Args:
        model: A functional Keras model. Models inside it are folded too, and so are
            layers that are one functional model, their attribute `network`, such as
            `layers.FeaturePyramid`.
    """
    users = Counter(id(tensor) for tensor in model.outputs)
    for operation in model.operations:
        users.update(id(tensor) for tensor in keras.tree.flatten(operation.input))
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    producers = {
        id(layer.output): layer
        for layer in model.layers
        if isinstance(layer, convolutions)
        and layer.activation is keras.activations.linear
        and users[id(layer.output)] == 1
    }
    folds = {
        producers[id(layer.input)].name: layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and id(layer.input) in producers
    }
    folded_names = {layer.name for layer in folds.values()}

    def clone(layer):
        network = getattr(layer, "network", layer)
        if isinstance(network, keras.Model) and hasattr(network, "operations"):
            return fold_batch_normalization(network)
        if layer.name in folds:
            return type(layer).from_config({**layer.get_config(), "use_bias": True})
        return layer

    def call(layer, inputs, *arguments, **options):
        if layer.name in folded_names:
            return inputs
        return layer(inputs, *arguments, **options)

    folded = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for name, normalization in folds.items():
        kernel, *bias = model.get_layer(name).get_weights()
        scale = 1 / np.sqrt(normalization.moving_variance + normalization.epsilon)
        if normalization.scale:
            scale *= normalization.gamma
        shift = ((bias[0] if bias else 0) - normalization.moving_mean) * scale
        if normalization.center:
            shift += normalization.beta
        layer = folded.get_layer(name)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            scale = scale.reshape(kernel.shape[2:])
        layer.set_weights([kernel * scale, shift])
    return folded


def save(served: Served, path: Path) -> None:
    """Writes a SavedModel and checks that a stock server can run it.

    Args:
        served: What to save.
        path: The directory to write.

    Raises:
        ExportRefused: The graph has operations that the server does not run.
    """
    # Saving the Keras model itself would add copies of its graph.
    root = tf.Module()
    root.resources = list(served.resources)
    root.model_variables = [variable.value for variable in served.variables]
    signatures = dict(served.signatures)
    if served.half:
        root.model_variables = [
            tf.Variable(tf.cast(value, tf.float16)) for value in root.model_variables
        ]
        signatures = {
            name: _from_half(signature, served.variables, root.model_variables)
            for name, signature in signatures.items()
        }
    tf.saved_model.save(root, str(path), signatures=signatures)
    unservable = operations(path) & UNSERVABLE_OPERATIONS
    if unservable:
        raise ExportRefused(
            f"the graph contains {', '.join(sorted(unservable))}, which TensorFlow "
            "Serving cannot run; write that step with TensorFlow operations"
        )


def _from_half(signature, variables, halves):
    """Returns a signature that reads its variables from those of half precision."""

    def call(*inputs):
        values = [
            (variable, tf.cast(half, variable.dtype))
            for variable, half in zip(variables, halves, strict=True)
        ]
        with keras.StatelessScope(values):
            return signature.python_function(*inputs)

    return tf.function(call, input_signature=signature.input_signature)


def operations(saved_model: Path) -> set[str]:
    """Returns the names of all operations in a SavedModel and its functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel.FromString(
        (saved_model / "saved_model.pb").read_bytes()
    )
    names = set()
    for graph in content.meta_graphs:
        names |= {node.op for node in graph.graph_def.node}
        for function in graph.graph_def.library.function:
            names |= {node.op for node in function.node_def}
    return names


def write_warm_up(saved_model: Path, model_name: str, served: Served) -> None:
    """Writes requests that the server answers before it takes the first client's.

    They move the slow first call to the start of the server, and keep it from loading a
    version whose variables are still being copied.

    Args:
        saved_model: The SavedModel directory.
        model_name: The name under which it is served.
        served: Gives the signatures and their warm-up values.

    Raises:
        BadInput: The `serve` extra is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise BadInput(
            "warm-up requests need tensorflow-serving-api: pip install "
            "'keras-apps[serve]'"
        ) from error

    folder = saved_model / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for name, value in served.warm_up.items():
            (spec,) = served.signatures[name].input_signature
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = name
            request.inputs[spec.name].CopyFrom(_tensor_proto(value, spec.dtype))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def _tensor_proto(value, dtype):
    """Returns a `TensorProto`; an array of equal numbers is stored as one number."""
    if isinstance(value, np.ndarray) and (value == value.flat[0]).all():
        return tf.make_tensor_proto(value.flat[0], dtype, shape=value.shape)
    return tf.make_tensor_proto(value, dtype)
