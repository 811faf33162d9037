"""Attention whose score is a product of query and key."""

import keras

from layers import _attention


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
        steps = _attention.with_steps(query)
        if self.score == "general":
            steps = self.query_projection(steps)
        scores = keras.ops.matmul(steps, keras.ops.transpose(keys, (0, 2, 1)))
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
        return {**super().get_config(), "score": self.score}
