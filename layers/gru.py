"""The gated recurrent unit, from its equations."""

import keras
import tensorflow as tf

from layers import _recurrence


@keras.saving.register_keras_serializable(package="layers")
class GRU(keras.layers.Layer):
    """Reads a sequence with a state that gates reset and update.

    At every step the update gate `z` decides how much of the state stays, and the reset
    gate `r` how much of it the candidate `g` for the rest can see:

        z, r = sigmoid(x W + h U + b)    with one W, U and b each
        g = tanh(x W + (r * h) U + b)
        h = z * h + (1 - z) * g

    It has three quarters of the weights of an LSTM, and nothing to carry but its
    output. The reset comes before the product, as in the paper; weights are
    interchangeable with those of `keras.layers.GRU(reset_after=False)`. The products
    with the inputs are taken for all steps at once, before the loop, and those of the
    gradients after it.

    Args:
        units: Size of the output.
        recurrent_dropout: The share of the previous output that is hidden from the
            gates and the candidate in training; the same units in all steps. Defaults
            to 0.
        return_sequences: Whether to return the outputs of all steps, instead of the
            last one. Defaults to `False`.
        return_state: Whether to return the last state too. Defaults to `False`.
        go_backwards: Whether to read from the end; the outputs come in that order.
            Defaults to `False`.
        kernel_initializer: Initializer of the weights of the inputs.
        recurrent_initializer: Initializer of the weights of the previous output.
        seed: Seed of the dropout.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        sequences: A batch of sequences.
        initial_state: The state to start from, or a list of it. Defaults to zeros.
        mask: Which steps are to be read, boolean, of shape `(batch, time)`. Others keep
            the state, and repeat the output before them.
        training: Whether to apply dropout.

    Input shape:
        `(batch, time, features)`; batch and time may be unknown.

    Output shape:
        `(batch, units)`, or `(batch, time, units)` with `return_sequences`. With
        `return_state` it is followed by one of `(batch, units)`.

    Raises:
        ValueError: `units` is not a positive whole number, or `recurrent_dropout` lies
            outside of [0, 1).

    Example:

    >>> layers.GRU(32, return_sequences=True)(np.zeros((4, 10, 8))).shape
    (4, 10, 32)

    Reference:
        [Cho et al., 2014](https://arxiv.org/abs/1406.1078), section 2.3
    """

    def __init__(
        self,
        units,
        recurrent_dropout=0.0,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _recurrence.check_arguments(units, recurrent_dropout)
        self.units = units
        self.recurrent_dropout = recurrent_dropout
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.kernel_initializer = kernel_initializer
        self.recurrent_initializer = recurrent_initializer
        self.seed = seed
        if recurrent_dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        # What keras.layers.Bidirectional asks for; it sets the last one.
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.stateful = False
        self.zero_output_for_mask = False

    def build(self, sequences_shape, initial_state_shape=None):
        # The gates stand side by side in the order z, r, g, as in Keras.
        self.kernel = self.add_weight(
            shape=(sequences_shape[-1], 3 * self.units),
            initializer=self.kernel_initializer,
            name="kernel",
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, 3 * self.units),
            initializer=self.recurrent_initializer,
            name="recurrent_kernel",
        )
        self.bias = self.add_weight(
            shape=(3 * self.units,), initializer="zeros", name="bias"
        )

    def call(self, sequences, initial_state=None, mask=None, training=False):
        if self.go_backwards:
            sequences = tf.reverse(sequences, (1,))
            mask = mask if mask is None else tf.reverse(mask, (1,))
        x = _recurrence.product_with_inputs(sequences, self.kernel, self.bias)
        steps = _recurrence.steps_first(mask)
        if initial_state is None:
            h = tf.zeros((keras.ops.shape(x)[1], self.units), x.dtype)
        else:
            (h,) = keras.tree.flatten(initial_state)
        dropout = None
        if training and self.recurrent_dropout:
            dropout = keras.random.dropout(
                tf.ones_like(h), self.recurrent_dropout, seed=self.seed_generator
            )
        recurrent_kernel = tf.convert_to_tensor(self.recurrent_kernel)
        recur = _recur_for_training if training else _recur
        states, h = recur(x, h, recurrent_kernel, steps, dropout)

        outputs, last = tf.transpose(states, (1, 0, 2)), states[-1]
        outputs, last = _recurrence.without_hidden_steps(
            self, outputs, last, mask, initial_state
        )
        result = outputs if self.return_sequences else last
        return (result, h) if self.return_state else result

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        batch, time, _ = sequences_shape
        state = (batch, self.units)
        outputs = (batch, time, self.units) if self.return_sequences else state
        return (outputs, state) if self.return_state else outputs

    def compute_mask(self, sequences, mask=None):
        output_mask = mask if self.return_sequences else None
        return (output_mask, None) if self.return_state else output_mask

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "recurrent_dropout": self.recurrent_dropout,
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
            "kernel_initializer": self.kernel_initializer,
            "recurrent_initializer": self.recurrent_initializer,
            "seed": self.seed,
        }


def _recur(x, h, recurrent_kernel, mask, dropout, recorded=1):
    """Runs the recurrence over all steps.

    Args:
        x: The share of the inputs in the gates, `(time, batch, 3 * units)`.
        h: The first state, `(batch, units)`.
        recurrent_kernel: The weights of the state.
        mask: The steps to be read, `(time, batch, 1)`, or `None`.
        dropout: What to multiply the state by before the products, or `None`.
        recorded: How many values to record of each step, out of its state, the state
            before it, the gates z and r, and the candidate g.

    Returns:
        The states of all steps and the last one; then, if more than the states are
        recorded, arrays of the others.
    """
    time = keras.ops.shape(x)[0]
    units = h.shape[-1]
    to_gates, to_candidate = tf.split(recurrent_kernel, (2 * units, units), 1)

    def step(t, h, *arrays):
        visible = h if dropout is None else h * dropout
        x_gates, x_candidate = tf.split(x[t], (2 * units, units), 1)
        gates = tf.sigmoid(x_gates + tf.matmul(visible, to_gates))
        z, r = tf.split(gates, 2, axis=1)
        g = tf.tanh(x_candidate + tf.matmul(r * visible, to_candidate))
        new_h = g + z * (h - g)
        if mask is not None:
            new_h = tf.where(mask[t], new_h, h)
        values = (new_h, h, z, r, g)
        arrays = [
            array.write(t, value) for array, value in zip(arrays, values, strict=False)
        ]
        return t + 1, new_h, *arrays

    arrays = [
        tf.TensorArray(x.dtype, time, clear_after_read=False, element_shape=h.shape)
        for _ in range(recorded)
    ]
    _, h, states, *others = tf.while_loop(lambda t, *_: t < time, step, (0, h, *arrays))
    return states.stack(), h, *others


def _recur_for_training(x, h, recurrent_kernel, mask, dropout):
    """Does what `_recur` does, with a gradient that is faster than its own.

    Its loop only finds the gradients of the arguments of the gates and the candidate,
    step by step; those of all weights are products over all steps.
    """

    @tf.custom_gradient
    def recur(x, h, recurrent_kernel):
        states, last, *arrays = _recur(
            x, h, recurrent_kernel, mask, dropout, recorded=5
        )

        def gradient(d_states, d_h):
            time = keras.ops.shape(x)[0]
            units = h.shape[-1]
            from_gates, from_candidate = tf.split(
                tf.transpose(recurrent_kernel), (2 * units, units)
            )

            def step(t, d_h, d_x):
                t -= 1
                before, z, r, g = (array.read(t) for array in arrays)
                visible = before if dropout is None else before * dropout
                d_h += d_states[t]
                d_g = tf.raw_ops.TanhGrad(y=g, dy=d_h * (1 - z))
                d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_h * (before - g))
                d_reset = tf.matmul(d_g, from_candidate)
                d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_reset * visible)
                d_visible = tf.matmul(tf.concat([d_z, d_r], 1), from_gates)
                d_visible += d_reset * r
                if dropout is not None:
                    d_visible *= dropout
                d_before = d_h * z + d_visible
                d_arguments = tf.concat([d_z, d_r, d_g], 1)
                if mask is not None:
                    d_before = tf.where(mask[t], d_before, d_h)
                    d_arguments = tf.where(mask[t], d_arguments, 0)
                return t, d_before, d_x.write(t, d_arguments)

            d_x = tf.TensorArray(x.dtype, time, element_shape=x.shape[1:])
            _, d_h, d_x = tf.while_loop(lambda t, *_: t > 0, step, (time, d_h, d_x))
            d_x = d_x.stack()
            before, r = arrays[0].stack(), arrays[2].stack()
            if dropout is not None:
                before *= dropout
            # Plain products of matrices, since `tf.tensordot` takes longer.
            d_gates, d_candidate = tf.split(
                tf.reshape(d_x, (-1, 3 * units)), (2 * units, units), 1
            )
            seen_by_gates = tf.reshape(before, (-1, units))
            seen_by_candidate = tf.reshape(r * before, (-1, units))
            d_kernel = tf.concat(
                [
                    tf.matmul(seen_by_gates, d_gates, transpose_a=True),
                    tf.matmul(seen_by_candidate, d_candidate, transpose_a=True),
                ],
                axis=1,
            )
            return d_x, d_h, d_kernel

        return (states, last), gradient

    return recur(x, h, recurrent_kernel)
