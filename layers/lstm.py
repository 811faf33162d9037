"""Long short-term memory, from its gate equations."""

import uuid

import keras
import tensorflow as tf

from layers import _recurrence


@keras.saving.register_keras_serializable(package="layers")
class LSTM(keras.layers.Layer):
    """Reads a sequence with a memory that gates write to, erase and read.

    At every step the input and forget gates `i` and `f` decide what enters the cell and
    what stays in it, and the output gate `o` what is seen of it:

        i, f, o = sigmoid(x W + h U + b)    with one W, U and b each
        c = f * c + i * tanh(x W + h U + b)
        h = o * tanh(c)

    The cell is changed by sums, so that gradients pass many steps without fading. With
    peepholes the gates also look at the cell: `i` and `f` at the previous one, `o` at
    the new one, each unit at its own.

    The products with the inputs are taken for all steps at once, before the loop, and
    those of the gradients after it. Weights are interchangeable with those of
    `keras.layers.LSTM`. Unlike that layer, it becomes a single fused operation in
    TensorFlow Lite, provided that the size of the batch is known and that it is called
    with the sequences alone and without `return_state`, and has no peepholes.

    Args:
        units: Size of the output and of the cell.
        peepholes: Whether the gates look at the cell. Defaults to `False`.
        unit_forget_bias: Whether the bias of the forget gate starts at 1, so that cells
            keep their contents at first, instead of at 0. Defaults to `True`.
        recurrent_dropout: The share of the previous output that is hidden from the
            gates in training; the same units in all steps. Defaults to 0.
        return_sequences: Whether to return the outputs of all steps, instead of the
            last one. Defaults to `False`.
        return_state: Whether to return the last `h` and `c` too. Defaults to `False`.
        go_backwards: Whether to read from the end; the outputs come in that order.
            Defaults to `False`.
        kernel_initializer: Initializer of the weights of the inputs.
        recurrent_initializer: Initializer of the weights of the previous output.
        seed: Seed of the dropout.
        lite_reset: Whether the fused operation empties its cell itself before each
            sequence, which takes it one more step; it would go on from its previous
            call otherwise. Without, call `interpreter.reset_all_variables()` between
            sequences; models of 8-bit activations need it so, because the further
            step's input takes their whole range. Defaults to `True`.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        sequences: A batch of sequences.
        initial_state: The `h` and `c` to start from. Defaults to zeros.
        mask: Which steps are to be read, boolean, of shape `(batch, time)`. Others keep
            the state, and repeat the output before them.
        training: Whether to apply dropout.

    Input shape:
        `(batch, time, features)`; batch and time may be unknown.

    Output shape:
        `(batch, units)`, or `(batch, time, units)` with `return_sequences`. With
        `return_state` it is followed by two of `(batch, units)`.

    Raises:
        ValueError: `units` is not a positive whole number, or `recurrent_dropout` lies
            outside of [0, 1).

    Example:

    >>> layers.LSTM(32, return_sequences=True)(np.zeros((4, 10, 8))).shape
    (4, 10, 32)

    Reference:
        [Hochreiter & Schmidhuber, 1997](https://doi.org/10.1162/neco.1997.9.8.1735),
        [Gers et al., 2000](https://doi.org/10.1162/089976600300015015) (forget gate),
        [Gers & Schmidhuber, 2000](https://doi.org/10.1109/IJCNN.2000.861302)
        (peepholes)
    """

    def __init__(
        self,
        units,
        peepholes=False,
        unit_forget_bias=True,
        recurrent_dropout=0.0,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        seed=None,
        lite_reset=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _recurrence.check_arguments(units, recurrent_dropout)
        self.units = units
        self.peepholes = peepholes
        self.unit_forget_bias = unit_forget_bias
        self.recurrent_dropout = recurrent_dropout
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.kernel_initializer = kernel_initializer
        self.recurrent_initializer = recurrent_initializer
        self.seed = seed
        self.lite_reset = lite_reset
        if recurrent_dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        # What keras.layers.Bidirectional asks for; it sets the last one.
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.stateful = False
        self.zero_output_for_mask = False

    def build(self, sequences_shape, initial_state_shape=None):
        # The gates stand side by side in the order i, f, c, o, as in Keras.
        self.kernel = self.add_weight(
            shape=(sequences_shape[-1], 4 * self.units),
            initializer=self.kernel_initializer,
            name="kernel",
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, 4 * self.units),
            initializer=self.recurrent_initializer,
            name="recurrent_kernel",
        )
        self.bias = self.add_weight(
            shape=(4 * self.units,), initializer=self._initial_bias, name="bias"
        )
        if self.peepholes:
            self.peephole_kernel = self.add_weight(
                shape=(3, self.units),
                initializer="glorot_uniform",
                name="peephole_kernel",
            )

    def call(self, sequences, initial_state=None, mask=None, training=False):
        if self.go_backwards:
            sequences = tf.reverse(sequences, (1,))
            mask = mask if mask is None else tf.reverse(mask, (1,))
        if (
            sequences.shape[0]
            and initial_state is None
            and mask is None
            and not (training or self.peepholes or self.return_state)
            and not tf.executing_eagerly()
        ):
            return self._fused(sequences)

        h, c = initial_state or (self._zeros(sequences),) * 2
        weights = self.kernel, self.recurrent_kernel, self.bias
        outputs, last, h, c = self._run(sequences, h, c, *weights, mask, training)
        outputs, last = _recurrence.without_hidden_steps(
            self, outputs, last, mask, initial_state
        )
        result = outputs if self.return_sequences else last
        return (result, h, c) if self.return_state else result

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        batch, time, _ = sequences_shape
        state = (batch, self.units)
        outputs = (batch, time, self.units) if self.return_sequences else state
        return (outputs, state, state) if self.return_state else outputs

    def compute_mask(self, sequences, mask=None):
        output_mask = mask if self.return_sequences else None
        return (output_mask, None, None) if self.return_state else output_mask

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "peepholes": self.peepholes,
            "unit_forget_bias": self.unit_forget_bias,
            "recurrent_dropout": self.recurrent_dropout,
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
            "kernel_initializer": self.kernel_initializer,
            "recurrent_initializer": self.recurrent_initializer,
            "seed": self.seed,
            "lite_reset": self.lite_reset,
        }

    def _initial_bias(self, shape, dtype):
        gates = keras.ops.arange(shape[0]) // self.units
        return keras.ops.cast((gates == 1) & self.unit_forget_bias, dtype)

    def _zeros(self, sequences):
        batch, _, _ = keras.ops.shape(sequences)
        return tf.zeros((batch, self.units), sequences.dtype)

    def _run(
        self,
        sequences,
        h,
        c,
        kernel,
        recurrent_kernel,
        bias,
        mask=None,
        training=False,
    ):
        """Returns the outputs of all steps, the last of them, and the last h and c."""
        x = _recurrence.product_with_inputs(sequences, kernel, bias)
        mask = _recurrence.steps_first(mask)
        dropout = None
        if training and self.recurrent_dropout:
            dropout = keras.random.dropout(
                tf.ones_like(h), self.recurrent_dropout, seed=self.seed_generator
            )
        weights = [recurrent_kernel]
        if self.peepholes:
            weights.append(self.peephole_kernel)
        weights = [tf.convert_to_tensor(weight) for weight in weights]
        is_single = x.shape[0] == 1
        recur = _recur_for_training if training and not is_single else _recur
        states, h, c = recur(x, h, c, weights, mask, dropout)
        return tf.transpose(states, (1, 0, 2)), states[-1], h, c

    def _fused(self, sequences):
        """Does what `_run` does in a way that TensorFlow Lite has an operation for."""

        def run(*arguments):
            outputs, last, h, c = self._run(*arguments)
            return last, outputs, h, c, tf.zeros(())

        # The converter recognizes this function by its name, arguments and results, of
        # which nothing may be used but the outputs of all steps.
        run = tf.function(
            run,
            autograph=False,
            experimental_attributes={
                "api_implements": f"lstm_{uuid.uuid4()}",
                "api_preferred_device": "CPU",
                "time_major": False,
                "go_backwards": False,
            },
        )
        kernel = tf.convert_to_tensor(self.kernel)
        if self.lite_reset:
            sequences, kernel = self._with_reset(sequences, kernel)
        outputs = run(
            sequences,
            self._zeros(sequences),
            self._zeros(sequences),
            kernel,
            tf.convert_to_tensor(self.recurrent_kernel),
            tf.convert_to_tensor(self.bias),
        )[1]
        if not self.return_sequences:
            return outputs[:, -1]
        return outputs[:, 1:] if self.lite_reset else outputs

    def _with_reset(self, sequences, kernel):
        """Returns sequences whose first step empties the cell, and their kernel.

        That step has one feature, a further one, which closes all gates.
        """
        batch, _, features = sequences.shape
        first = tf.one_hot(
            [[features]] * batch, features + 1, 1e4, 0, dtype=sequences.dtype
        )
        sequences = tf.pad(sequences, ((0, 0), (0, 0), (0, 1)))
        # As large as the largest weight, so that quantization loses no precision by it.
        largest = tf.maximum(tf.reduce_max(tf.abs(kernel)), 0.01)
        closing = tf.fill((1, 4 * self.units), -largest)
        return tf.concat([first, sequences], 1), tf.concat([kernel, closing], 0)


def _recur(x, h, c, weights, mask, dropout, recorded=1):
    """Runs the recurrence over all steps.

    Args:
        x: The share of the inputs in the gates, `(time, batch, 4 * units)`.
        h: The first state, `(batch, units)`.
        c: The first cell, likewise.
        weights: The recurrent kernel and, with peepholes, theirs.
        mask: The steps to be read, `(time, batch, 1)`, or `None`.
        dropout: What to multiply the state by before the product, or `None`.
        recorded: How many values to record of each step, out of its state, the cell
            before it, the gates (i, f, g, o) and tanh of the new cell. Of a single
            step only the state is recorded.

    Returns:
        The states of all steps, the last one and the last cell; then, if more than the
        states are recorded, arrays of the others.
    """
    time = keras.ops.shape(x)[0]
    recurrent_kernel, *peepholes = weights
    p_i, p_f, p_o = tf.unstack(peepholes[0]) if peepholes else (None,) * 3

    def step(t, h, c, *arrays):
        visible = h if dropout is None else h * dropout
        i, f, g, o = tf.split(x[t] + tf.matmul(visible, recurrent_kernel), 4, axis=1)
        i = tf.sigmoid(i + p_i * c if peepholes else i)
        f = tf.sigmoid(f + p_f * c if peepholes else f)
        g = tf.tanh(g)
        new_c = f * c + i * g
        tanh_c = tf.tanh(new_c)
        o = tf.sigmoid(o + p_o * new_c if peepholes else o)
        new_h = o * tanh_c
        if mask is not None:
            new_h = tf.where(mask[t], new_h, h)
            new_c = tf.where(mask[t], new_c, c)
        values = (new_h, c, i, f, g, o, tanh_c)
        arrays = [
            array.write(t, value) for array, value in zip(arrays, values, strict=False)
        ]
        return t + 1, new_h, new_c, *arrays

    if x.shape[0] == 1:  # What a decoder asks for, step by step, needs no loop.
        _, h, c = step(0, h, c)
        return h[None], h, c

    arrays = [
        tf.TensorArray(x.dtype, time, clear_after_read=False, element_shape=h.shape)
        for _ in range(recorded)
    ]
    _, h, c, states, *others = tf.while_loop(
        lambda t, *_: t < time, step, (0, h, c, *arrays)
    )
    return states.stack(), h, c, *others


def _recur_for_training(x, h, c, weights, mask, dropout):
    """Does what `_recur` does, with a gradient that is faster than its own.

    Its loop only finds the gradients of the gates' arguments, step by step; those of
    all weights are products over all steps.
    """

    @tf.custom_gradient
    def recur(x, h_0, c_0, *weights):
        states, h, c, *arrays = _recur(x, h_0, c_0, weights, mask, dropout, recorded=7)
        recurrent_kernel, *peepholes = weights
        p_i, p_f, p_o = tf.unstack(peepholes[0]) if peepholes else (None,) * 3

        def gradient(d_states, d_h, d_c):
            time = keras.ops.shape(x)[0]
            transposed = tf.transpose(recurrent_kernel)

            def step(t, d_h, d_c, d_x):
                t -= 1
                before, i, f, g, o, tanh_c = (array.read(t) for array in arrays)
                d_h += d_states[t]
                d_o = tf.raw_ops.SigmoidGrad(y=o, dy=d_h * tanh_c)
                d_new_c = d_c + tf.raw_ops.TanhGrad(y=tanh_c, dy=d_h * o)
                if peepholes:
                    d_new_c += d_o * p_o
                d_i = tf.raw_ops.SigmoidGrad(y=i, dy=d_new_c * g)
                d_f = tf.raw_ops.SigmoidGrad(y=f, dy=d_new_c * before)
                d_g = tf.raw_ops.TanhGrad(y=g, dy=d_new_c * i)
                d_z = tf.concat([d_i, d_f, d_g, d_o], 1)
                if mask is not None:
                    d_z = tf.where(mask[t], d_z, 0)
                new_d_h = tf.matmul(d_z, transposed)
                if dropout is not None:
                    new_d_h *= dropout
                d_before = d_new_c * f
                if peepholes:
                    d_before += d_i * p_i + d_f * p_f
                if mask is not None:
                    new_d_h = tf.where(mask[t], new_d_h, d_h)
                    d_before = tf.where(mask[t], d_before, d_c)
                return t, new_d_h, d_before, d_x.write(t, d_z)

            d_x = tf.TensorArray(x.dtype, time, element_shape=x.shape[1:])
            _, d_h, d_c, d_x = tf.while_loop(
                lambda t, *_: t > 0, step, (time, d_h, d_c, d_x)
            )
            d_x = d_x.stack()
            before = tf.concat([h_0[None], states[:-1]], 0)
            if dropout is not None:
                before *= dropout
            # A plain product of matrices, since `tf.tensordot` takes longer.
            d_kernel = tf.matmul(
                tf.reshape(before, (-1, before.shape[-1])),
                tf.reshape(d_x, (-1, d_x.shape[-1])),
                transpose_a=True,
            )
            d_weights = [d_kernel]
            if peepholes:
                d_i, d_f, _, d_o = tf.split(d_x, 4, axis=-1)
                before = arrays[0].stack()
                after = tf.concat([before[1:], c[None]], 0)
                sums = (d_i * before, d_f * before, d_o * after)
                d_weights.append(tf.stack([tf.reduce_sum(s, (0, 1)) for s in sums]))
            return d_x, d_h, d_c, *d_weights

        return (states, h, c), gradient

    return recur(x, h, c, *weights)
