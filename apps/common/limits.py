"""What a served graph checks before it works: shapes, limits and bad inputs.

TensorFlow Serving does not compare a request with the shapes of a signature, and some
operations end the whole process if a shape is wrong. So the graph checks. A request of
a wrong shape is refused with a sentence. An input that is bad for another reason gets a
neutral answer and its own error; the other inputs of the request, or of strangers in
the same batch of the server, keep their answers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

MAX_INPUTS = 32  # In a request, as many as our own clients send.


def check_shape(
    inputs: tf.Tensor, name: str, shape: Sequence[int | None], max_shape: Sequence[int]
) -> tf.Tensor:
    """Checks the shape of an input of a signature, inside its graph.

    A request without inputs, whose first axis is empty, may have any shape: an empty
    list in JSON has a single axis.

    Args:
        inputs: The input. The server may pass it with any shape.
        name: The name of the input, for the message.
        shape: The expected shape; None for the number of inputs and for other axes of
            variable size.
        max_shape: The largest size of each axis.

    Returns:
        The input with this static shape. Without inputs the axes of variable size,
        apart from the first, have size 1.

    Raises:
        tf.errors.InvalidArgumentError: The shape is another one; when the graph runs.
    """
    # Otherwise TensorFlow would trust the signature and remove the checks.
    inputs = tf.compat.v1.placeholder_with_default(inputs, None)
    sizes = tf.shape(inputs)
    is_empty = tf.concat([sizes, [1]], 0)[0] == 0
    least = [0, *(size or 1 for size in shape[1:])]
    is_fitting = tf.cond(
        tf.size(sizes) == len(shape),
        lambda: tf.reduce_all((sizes >= least) & (sizes <= tf.constant(max_shape))),
        lambda: False,
    )
    letters = ["n", *"kml"]
    axes = [letters[i] if size is None else size for i, size in enumerate(shape)]
    most = [
        f"{axis} at most {largest}"
        for axis, size, largest in zip(axes, shape, max_shape, strict=True)
        if size is None
    ]
    expected = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
    check = tf.debugging.Assert(
        is_empty | is_fitting,
        [f"{name} must have the shape {expected}, {', '.join(most)}, but has", sizes],
        summarize=8,
    )
    with tf.control_dependencies([check]):
        inputs = tf.cond(
            is_empty,
            lambda: tf.reshape(inputs, [0, *least[1:]]),
            lambda: inputs,
        )
    return tf.ensure_shape(inputs, shape)


def first_error(*checks: tuple[tf.Tensor, str | tf.Tensor]) -> tf.Tensor:
    """Returns the message of the first check that each input fails.

    Args:
        *checks: Pairs: whether each input is bad, bool `(n,)`, and the message, a
            string or strings `(n,)`.

    Returns:
        Strings `(n,)`; empty where the input passes all checks.
    """
    errors = tf.fill(tf.shape(checks[0][0]), "")
    for is_bad, message in reversed(checks):
        errors = tf.where(is_bad, message, errors)
    return errors


def answer(outputs: Mapping[str, tf.Tensor], errors: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns outputs with `errors`; inputs with an error get neutral outputs.

    Args:
        outputs: Tensors `(n, …)` by name.
        errors: Strings `(n,)`; empty where all is well.

    Returns:
        The outputs, with zeros and empty strings where there is an error, and `errors`.
    """

    def hide(value):
        is_good = tf.reshape(errors == "", [-1] + [1] * (value.shape.rank - 1))
        return tf.where(is_good, value, tf.zeros_like(value))

    return {**{name: hide(value) for name, value in outputs.items()}, "errors": errors}


def call_network(network: Callable[[tf.Tensor], Any], inputs: tf.Tensor) -> Any:
    """Calls a network that cannot take an empty batch, as most cannot.

    Args:
        network: Function of a batch; returns a tensor, or a structure of tensors.
        inputs: `(n, …)`; n may be 0.

    Returns:
        Its result, each tensor `(n, …)`.
    """
    num_inputs = tf.shape(inputs)[0]
    one = tf.concat([[1], tf.shape(inputs)[1:]], 0)
    some = tf.cond(num_inputs > 0, lambda: inputs, lambda: tf.zeros(one, inputs.dtype))
    results = network(tf.ensure_shape(some, inputs.shape))
    return tf.nest.map_structure(lambda result: result[:num_inputs], results)


def attempt(
    function: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor, otherwise: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Calls a function inside a graph, and goes on if it fails.

    Args:
        function: Takes the value and returns a tensor.
        value: Its argument.
        otherwise: The result if the function fails.

    Returns:
        The result; and whether the function succeeded, a bool scalar.
    """
    # Of all operations only a data set can go on after an error.
    result = tf.data.Dataset.from_tensors(value).map(lambda x: (function(x), True))
    failure = tf.data.Dataset.from_tensors((otherwise, False))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    first = result.ignore_errors().concatenate(failure).take(1)
    return first.with_options(options).get_single_element()
