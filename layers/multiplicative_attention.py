"""Multiplicative (Luong) attention."""

import keras

from layers import _attention


@keras.saving.register_keras_serializable(package="layers")
class MultiplicativeAttention(keras.layers.Layer):
    """Multiplicative (Luong) attention: a weighted sum of the values.

    The score of a step is `query · key` (`"dot"`) or `query W · key` (`"general"`). By
    default the values are also the keys. The weights are the softmax of the scores over
    the steps, and the context is the weighted sum of the values.

    This layer needs two matrix products and far less memory than `AdditiveAttention`,
    which computes `units` numbers for each pair of steps.

    Args:
        score: `"dot"` has no weights, `"general"` learns `W`. Defaults to `"dot"`.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: `[query, values]` or `[query, values, keys]`.
        mask: Padding mask, boolean `(batch, steps)`, True for steps to attend to. If
            all steps of a sequence are masked, its weights and context are 0. Defaults
            to no mask. If Keras attached a mask to the values, pass it here.
        return_weights: If True, also return the weights. Defaults to False.

    Input shape:
        Query: `(batch, query_steps, query_size)`, or `(batch, query_size)` for a single
        step. Values: `(batch, steps, size)`. Keys: `(batch, steps, key_size)`. With
        `"dot"`, query and keys must have the same size. Batch and steps may be unknown.

    Output shape:
        Context: `(batch, query_steps, size)`, or `(batch, size)` for a single step.
        Weights: `(batch, query_steps, steps)`, or `(batch, steps)`.

    Raises:
        ValueError: `score` is unknown, the inputs have other shapes, or Keras attached
            a mask to the values and `mask` is missing.

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
        _attention.check_shapes(input_shape)
        query_size, size = input_shape[0][-1], input_shape[-1][-1]
        if self.score == "general":
            self.query_projection = keras.layers.Dense(
                size, use_bias=False, dtype=self.dtype_policy, name="query_projection"
            )
            self.query_projection.build(input_shape[0])
        elif query_size != size:
            raise ValueError(
                'With score="dot", query and keys must have the same size. Received a '
                f"query of size {query_size} and keys of size {size}. Project one of "
                'them, or use score="general". Without keys, the values are the keys.'
            )

    def project_keys(self, values):
        """Returns `values` unchanged, because the values are the keys.

        This method exists so that a decoder can use either attention layer: see
        `AdditiveAttention.project_keys`.
        """
        return values

    def call(self, inputs, mask=None, return_weights=False):
        query, values, *keys = inputs
        keys = keys[0] if keys else self.project_keys(values)
        steps = _attention.with_steps(query)
        if self.score == "general":
            steps = self.query_projection(steps)
        scores = keras.ops.matmul(steps, keras.ops.transpose(keys, (0, 2, 1)))
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
        return {**super().get_config(), "score": self.score}
