"""Functions shared by `AdditiveAttention` and `MultiplicativeAttention`."""

import keras


def check_shapes(input_shape):
    """Checks that the inputs are a query, values and optional keys.

    Raises:
        ValueError: The inputs have other shapes.
    """
    ranks = [len(s) if isinstance(s, (list, tuple)) else 0 for s in input_shape]
    if ranks not in ([2, 3], [3, 3], [2, 3, 3], [3, 3, 3]):
        raise ValueError(
            "The inputs must be [query, values] or [query, values, keys]. The query "
            "must be (batch, steps, size) or (batch, size), values and keys must be "
            "(batch, steps, size). Reshape a grid of image features to "
            f"(batch, height * width, channels). Received shapes: {input_shape}"
        )


def is_single(query):
    """Returns True if the query has a single step: `(batch, size)`."""
    return len(query.shape) == 2


def with_steps(query):
    """Returns the query as `(batch, query_steps, size)`."""
    return keras.ops.expand_dims(query, 1) if is_single(query) else query


def attend(query, scores, values, mask, return_weights):
    """Computes the context: the sum of the values, weighted by softmax of the scores.

    Args:
        query: The query of the call. If it has a single step, so do the results.
        scores: `(batch, query_steps, steps)`.
        values: `(batch, steps, size)`.
        mask: Boolean `(batch, steps)`, or None.
        return_weights: If True, also return the weights.

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
    """Returns the softmax over unmasked steps, or zeros if all steps are masked.

    Raises:
        ValueError: Keras attached a mask to the values, but the call got none.
    """
    if isinstance(mask, (list, tuple)):  # The call got none; Keras lists attached ones.
        if any(attached is not None for attached in mask[1:]):
            raise ValueError(
                "Keras attached a mask to the values, but the call got none. Pass it: "
                "attention([query, values], mask=mask)"
            )
        mask = None
    if mask is None:
        return keras.ops.softmax(scores)
    mask = keras.ops.expand_dims(mask, 1)
    # Masked steps get the lowest score. A large negative number would overflow in half
    # precision, and in int8 it would leave no resolution for the other scores.
    lowest = keras.ops.min(scores, axis=-1, keepdims=True)
    weights = keras.ops.softmax(keras.ops.where(mask, scores, lowest))
    weights = keras.ops.where(mask, weights, 0)
    total = keras.ops.sum(weights, axis=-1, keepdims=True)
    return weights / keras.ops.where(total > 0, total, 1)
