"""What both attentions share, however they score."""

import keras


def check_shapes(input_shape):
    """Checks that the shapes are those of a query, values and perhaps keys.

    Raises:
        ValueError: They are not.
    """
    ranks = [len(s) if isinstance(s, (list, tuple)) else 0 for s in input_shape]
    if ranks not in ([2, 3], [3, 3], [2, 3, 3], [3, 3, 3]):
        raise ValueError(
            "The inputs must be [query, values] or [query, values, keys]: a query "
            "(batch, steps, size) or (batch, size), values and keys "
            "(batch, steps, size). Reshape a grid of image features to "
            f"(batch, height * width, channels). Received shapes: {input_shape}"
        )


def is_single(query):
    """Returns whether the query has one step only, `(batch, size)`."""
    return len(query.shape) == 2


def with_steps(query):
    """Returns the query as `(batch, query_steps, size)`."""
    return keras.ops.expand_dims(query, 1) if is_single(query) else query


def attend(query, scores, values, mask, return_weights):
    """Sums the values, each weighted by the softmax of its score.

    Args:
        query: As it came, which decides about the shape of the results.
        scores: `(batch, query_steps, steps)`.
        values: `(batch, steps, size)`.
        mask: Boolean `(batch, steps)`, or None.
        return_weights: Whether to return the weights as well.

    Returns:
        The context, or the context and the weights.
    """
    weights = masked_softmax(scores, mask)
    context = keras.ops.matmul(weights, values)
    if is_single(query):
        context = keras.ops.squeeze(context, 1)
        weights = keras.ops.squeeze(weights, 1)
    return (context, weights) if return_weights else context


def masked_softmax(scores, mask):
    """Returns the softmax over the steps that the mask allows; zeros if there is none.

    Raises:
        ValueError: The values carry a mask of Keras that was not given.
    """
    if isinstance(mask, (list, tuple)):  # Not given: Keras lists what inputs carry.
        if any(carried is not None for carried in mask[1:]):
            raise ValueError(
                "The values carry a mask that Keras attached to them. Give it as "
                "well: attention([query, values], mask=mask)"
            )
        mask = None
    if mask is None:
        return keras.ops.softmax(scores)
    mask = keras.ops.expand_dims(mask, 1)
    # Masked with the lowest score rather than with a huge negative number, which
    # overflows in half precision and leaves int8 no resolution for the others.
    lowest = keras.ops.min(scores, axis=-1, keepdims=True)
    weights = keras.ops.softmax(keras.ops.where(mask, scores, lowest))
    weights = keras.ops.where(mask, weights, 0)
    total = keras.ops.sum(weights, axis=-1, keepdims=True)
    return weights / keras.ops.where(total > 0, total, 1)
