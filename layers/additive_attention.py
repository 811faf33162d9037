"""Attention whose score is a small network of query and key, added."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class AdditiveAttention(keras.layers.Layer):
    """Looks at each step of the values as far as it fits the query (Bahdanau).

    A step's score is `v · tanh(query W_q + key W_k + b)`, where its key is its value.
    The weights are the softmax of the scores over the steps, the context is the sum of
    the values so weighted. Unlike `keras.layers.AdditiveAttention` it learns the
    projections, so that query and values may differ in size.

    Args:
        units: Size of the space in which query and keys are added.
        use_bias: Whether `b` is added. Defaults to True.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: `[query, values]`, or `[query, values, keys]` with the keys that
            `project_keys(values)` gave, so that a decoder projects its source once
            and not at every step.
        mask: Boolean `(batch, steps)`, True where a value may be looked at; a row
            that is False throughout has weights and a context of zero. Defaults to
            all. A mask that Keras attached to the values must be given here, too.
        return_weights: Whether the weights are returned as well. Defaults to False.

    Input shape:
        The query `(batch, query_steps, query_size)`, or `(batch, query_size)` for a
        single step; the values `(batch, steps, size)`; the keys
        `(batch, steps, units)`. Batch and steps may be unknown.

    Output shape:
        The context `(batch, query_steps, size)`, or `(batch, size)` for a single step;
        the weights `(batch, query_steps, steps)`, or `(batch, steps)`.

    Raises:
        ValueError: `units` is not a positive whole number, the inputs are not shaped
            as above, or the values carry a mask that was not given as `mask`.

    Example:

    >>> source, state = np.zeros((2, 7, 16)), np.zeros((2, 32))
    >>> attention = layers.AdditiveAttention(8)
    >>> context, weights = attention([state, source], return_weights=True)
    >>> tuple(context.shape), tuple(weights.shape)
    ((2, 16), (2, 7))

    Reference:
        [Bahdanau et al., 2015](https://arxiv.org/abs/1409.0473), section A.1.2
    """

    def __init__(self, units, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(
                "`units` must be a positive whole number, for instance units=64. "
                f"Received: units={units!r}"
            )
        self.units = units
        self.use_bias = use_bias
        # Not in build, since keys may be projected before the first call.
        self.query_projection = self._dense(units, use_bias, "query_projection")
        self.key_projection = self._dense(units, False, "key_projection")
        self.score = self._dense(1, False, "score")

    def build(self, input_shape):
        ranks = [len(s) if isinstance(s, (list, tuple)) else 0 for s in input_shape]
        if ranks not in ([2, 3], [3, 3], [2, 3, 3], [3, 3, 3]):
            raise ValueError(
                "The inputs must be [query, values] or [query, values, keys]: a query "
                "(batch, steps, size) or (batch, size), values and keys "
                "(batch, steps, size). Reshape a grid of image features to "
                f"(batch, height * width, channels). Received shapes: {input_shape}"
            )
        query_shape, values_shape, *_ = input_shape
        self.query_projection.build(query_shape)
        if not self.key_projection.built:
            self.key_projection.build(values_shape)
        self.score.build((*query_shape[:-1], values_shape[1], self.units))

    def project_keys(self, values):
        """Returns the keys of `values`, to be given at several calls."""
        if isinstance(values, keras.KerasTensor):
            # The model would own the projection a second time, and not reload.
            raise ValueError(
                "`project_keys` is for the `call` of a layer or model. In a functional "
                "model give the values alone: attention([query, values])"
            )
        return self.key_projection(values)

    def call(self, inputs, mask=None, return_weights=False):
        query, values, *keys = inputs
        keys = keys[0] if keys else self.project_keys(values)
        single = len(query.shape) == 2
        if single:
            query = keras.ops.expand_dims(query, 1)

        query = keras.ops.expand_dims(self.query_projection(query), 2)
        scores = self.score(keras.ops.tanh(query + keras.ops.expand_dims(keys, 1)))
        weights = self._weights(keras.ops.squeeze(scores, -1), mask)
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
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
        }

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

    def _dense(self, units, use_bias, name):
        return keras.layers.Dense(
            units, use_bias=use_bias, dtype=self.dtype_policy, name=name
        )
