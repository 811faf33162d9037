"""Attention whose score is a small network of query and key, added."""

import keras

from layers import _attention


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
        _attention.check_shapes(input_shape)
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
        projected = self.query_projection(_attention.with_steps(query))
        projected = keras.ops.expand_dims(projected, 2)
        scores = self.score(keras.ops.tanh(projected + keras.ops.expand_dims(keys, 1)))
        scores = keras.ops.squeeze(scores, -1)
        return _attention.attend(query, scores, values, mask, return_weights)

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

    def _dense(self, units, use_bias, name):
        return keras.layers.Dense(
            units, use_bias=use_bias, dtype=self.dtype_policy, name=name
        )
