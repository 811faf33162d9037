"""Attention whose score is a product of query and key."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class MultiplicativeAttention(keras.layers.Layer):
    """Looks at each step of the values as far as it fits the query (Luong).

    A step's score is `query · key` (`"dot"`) or `query W · key` (`"general"`), where
    its key is its value. The weights are the softmax of the scores over the steps, the
    context is the sum of the values so weighted. It costs two matrix products, and far
    less memory than `AdditiveAttention`, which computes `units` numbers for each pair
    of steps.

    Args:
        score: `"dot"`, without weights, or `"general"`. Defaults to `"dot"`.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: `[query, values]`, or `[query, values, keys]` with the keys that
            `project_keys(values)` gave.
        mask: Boolean `(batch, steps)`, True where a value may be looked at; a row
            that is False throughout has weights and a context of zero. Defaults to
            all. A mask that Keras attached to the values must be given here, too.
        return_weights: Whether the weights are returned as well. Defaults to False.

    Input shape:
        The query `(batch, query_steps, query_size)`, or `(batch, query_size)` for a
        single step; the values, and the keys, `(batch, steps, size)`. For `"dot"` both
        sizes are the same. Batch and steps may be unknown.

    Output shape:
        The context `(batch, query_steps, size)`, or `(batch, size)` for a single step;
        the weights `(batch, query_steps, steps)`, or `(batch, steps)`.

    Raises:
        ValueError: `score` is unknown, the inputs are not shaped as above, or the
            values carry a mask that was not given as `mask`.

    Example:

    >>> source, state = np.zeros((2, 7, 16)), np.zeros((2, 32))
    >>> attention = layers.MultiplicativeAttention("general")
    >>> context, weights = attention([state, source], return_weights=True)
    >>> tuple(context.shape), tuple(weights.shape)
    ((2, 16), (2, 7))

    Reference:
        [Luong et al., 2015](https://arxiv.org/abs/1508.04025), section 3.1
    """

    def __init__(self, score="dot", **kwargs):
        super().__init__(**kwargs)
        if score not in ("dot", "general"):
            raise ValueError(
                f'`score` must be "dot" or "general". Received: score={score!r}'
            )
        self.score = score

    def build(self, input_shape):
        ranks = [len(s) if isinstance(s, (list, tuple)) else 0 for s in input_shape]
        if ranks not in ([2, 3], [3, 3], [2, 3, 3], [3, 3, 3]):
            raise ValueError(
                "The inputs must be [query, values] or [query, values, keys]: a query "
                "(batch, steps, size) or (batch, size), values and keys "
                "(batch, steps, size). Reshape a grid of image features to "
                f"(batch, height * width, channels). Received shapes: {input_shape}"
            )
        query_size, size = input_shape[0][-1], input_shape[-1][-1]
        if self.score == "general":
            self.query_projection = keras.layers.Dense(
                size, use_bias=False, dtype=self.dtype_policy, name="query_projection"
            )
            self.query_projection.build(input_shape[0])
        elif query_size != size:
            raise ValueError(
                'With score="dot", query and keys must have the same size. Received a '
                f"query of {query_size} and keys of {size}: project one of them, or "
                'let score="general" do so. Without keys, the values are the keys.'
            )

    def project_keys(self, values):
        """Returns the keys of `values`, which are the values themselves.

        `W` is applied to the query instead, so that a source of any length needs no
        projection. The method is there because `AdditiveAttention` has it.
        """
        return values

    def call(self, inputs, mask=None, return_weights=False):
        query, values, *keys = inputs
        keys = keys[0] if keys else self.project_keys(values)
        single = len(query.shape) == 2
        if single:
            query = keras.ops.expand_dims(query, 1)

        if self.score == "general":
            query = self.query_projection(query)
        scores = keras.ops.matmul(query, keras.ops.transpose(keys, (0, 2, 1)))
        weights = self._weights(scores, mask)
        context = keras.ops.matmul(weights, values)

        if single:
            context = keras.ops.squeeze(context, 1)
            weights = keras.ops.squeeze(weights, 1)
        return (context, weights) if return_weights else context

    def compute_mask(self, inputs, previous_mask):
        # Without this method, Keras warns at every mask that it gets lost.
        return None

    def compute_output_shape(self, input_shape):
        query_shape, values_shape, *_ = input_shape
        return (*query_shape[:-1], values_shape[-1])

    def compute_output_spec(self, *args, **kwargs):
        # Traces the call, since `return_weights` decides how many outputs there are.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self):
        return {**super().get_config(), "score": self.score}

    def _weights(self, scores, mask):
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
