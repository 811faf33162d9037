"""Additive (Bahdanau) attention."""

import keras

from layers import _attention


@keras.saving.register_keras_serializable(package="layers")
class AdditiveAttention(keras.layers.Layer):
    """Additive (Bahdanau) attention: a weighted sum of the values.

    The score of a step is `v · tanh(query W_q + key + b)` with `key = value W_k`. The
    weights are the softmax of the scores over the steps, and the context is the
    weighted sum of the values. Unlike `keras.layers.AdditiveAttention`, this layer
    learns the projections, so query and values may differ in size.

    Args:
        units: Size of the projected query and keys.
        use_bias: If True, add the bias `b`. Defaults to True.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: `[query, values]`, or `[query, values, keys]` with
            `keys = project_keys(values)`. A decoder that passes the keys projects its
            source once instead of at every step.
        mask: Padding mask, boolean `(batch, steps)`, True for steps to attend to. If
            all steps of a sequence are masked, its weights and context are 0. Defaults
            to no mask. If Keras attached a mask to the values, pass it here.
        return_weights: If True, also return the weights. Defaults to False.

    Input shape:
        Query: `(batch, query_steps, query_size)`, or `(batch, query_size)` for a single
        step. Values: `(batch, steps, size)`. Keys: `(batch, steps, units)`. Batch and
        steps may be unknown.

    Output shape:
        Context: `(batch, query_steps, size)`, or `(batch, size)` for a single step.
        Weights: `(batch, query_steps, steps)`, or `(batch, steps)`.

    Raises:
        ValueError: `units` is not a positive whole number, the inputs have other
            shapes, or Keras attached a mask to the values and `mask` is missing.

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
        # Created here, because `project_keys` may run before `build`.
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
        """Returns the keys of `values`, for use in several calls."""
        if isinstance(values, keras.KerasTensor):
            # The model would contain the projection twice, and could not be reloaded.
            raise ValueError(
                "`project_keys` works only inside the `call` of a layer or model. In a "
                "functional model, pass only the values: attention([query, values])"
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
        # The context has no mask. Without this method, Keras warns about that.
        return None

    def compute_output_shape(self, input_shape):
        query_shape, values_shape, *_ = input_shape
        return (*query_shape[:-1], values_shape[-1])

    def compute_output_spec(self, *args, **kwargs):
        # Trace the call, because the number of outputs depends on `return_weights`.
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
