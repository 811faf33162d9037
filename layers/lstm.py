"""Long short-term memory."""

import uuid

import keras
import tensorflow as tf

from layers import _recurrence


@keras.saving.register_keras_serializable(package="layers")
class LSTM(_recurrence.FastRecurrence, keras.layers.LSTM):
    """Long short-term memory: a drop-in for `keras.layers.LSTM` that trains faster.

    At every step the input gate `i` and the forget gate `f` decide what enters the cell
    and what stays in it. The output gate `o` decides how much of the cell is output:

        i, f, o = sigmoid(x W + h U + b)    with W, U and b for each
        c = f * c + i * tanh(x W + h U + b)
        h = o * tanh(c)

    The cell changes by addition, so gradients do not vanish over many steps. With
    peepholes the gates also read the cell: `i` and `f` the previous one, `o` the new
    one. A gate of a unit reads only that unit's cell.

    The products with the inputs are computed for all steps at once, before the loop.
    The gradient is written by hand: the products for the weights' gradients are
    computed for all steps at once, after the loop. Keras' own loop runs with other
    activations than the default ones, `unroll=True` and `use_cudnn=True`.

    In TensorFlow Lite the layer becomes a single fused operation, unlike Keras' layer,
    if the batch size is known and the call has neither mask nor initial state. It stays
    a loop with `peepholes`, `return_state`, `stateful`, or with what runs Keras' loop.

    Args:
        units: Size of the output and of the cell.
        *args: The other arguments of `keras.layers.LSTM`, in its order.
        peepholes: If True, the gates read the cell. Their weights come first in
            `get_weights()`. `unroll` and `use_cudnn` are ignored then, because Keras'
            loop has no peepholes. Defaults to False.
        lite_reset: If True, prepend a step that clears the fused operation's state
            between calls. If False, call `interpreter.reset_all_variables()` between
            sequences. Models with 8-bit activations need False, because the input of
            that step would take their whole range. Defaults to True.
        **kwargs: Arguments of `keras.layers.LSTM`, with its defaults, and base layer
            arguments, such as `name` and `dtype`. `use_cudnn="auto"` does not use
            cuDNN, which rejects masks that are not right-padded. `implementation` only
            sets whether every gate has its own dropout mask (1), because the products
            with the inputs do not run inside the loop.

    Call arguments:
        sequences: A batch of sequences.
        initial_state: List of `h` and `c` to start from. Defaults to zeros, or to the
            last ones if `stateful`.
        mask: Boolean `(batch, time)`, True for steps to read. A masked step keeps the
            state and repeats the previous output, or returns 0 if
            `zero_output_for_mask`. Defaults to no mask.
        training: If True, apply dropout. Defaults to False.

    Input shape:
        `(batch, time, features)`; batch and time may be unknown.

    Output shape:
        `(batch, units)`, or `(batch, time, units)` with `return_sequences`. With
        `return_state` the last `h` and `c` follow, `(batch, units)` each.

    Raises:
        ValueError: `units` is not a positive whole number, a dropout rate is outside
            [0, 1), or the layer is stateful and the batch has another size.

    Example:

    >>> layers.LSTM(32, return_sequences=True)(np.zeros((4, 10, 8))).shape
    (4, 10, 32)

    Reference:
        [Hochreiter & Schmidhuber, 1997](https://doi.org/10.1162/neco.1997.9.8.1735),
        [Gers et al., 2000](https://doi.org/10.1162/089976600300015015) (forget gate),
        [Gers & Schmidhuber, 2000](https://doi.org/10.1109/IJCNN.2000.861302)
        (peepholes)
    """

    def __init__(self, units, *args, peepholes=False, lite_reset=True, **kwargs):
        super().__init__(units, *args, **kwargs)
        self.peepholes = peepholes
        self.lite_reset = lite_reset

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape, initial_state_shape)
        if self.peepholes:
            self.peephole_kernel = self.add_weight(
                shape=(3, self.units),
                initializer="glorot_uniform",
                name="peephole_kernel",
            )

    def call(self, sequences, initial_state=None, mask=None, training=False):
        if (
            sequences.shape[0]
            and initial_state is None
            and mask is None
            and not (training or self.peepholes or self.return_state or self.stateful)
            and self._is_fast()
            and not tf.executing_eagerly()
        ):
            return self._fused(sequences)
        return super().call(sequences, initial_state, mask, training)

    def get_config(self):
        return {
            **super().get_config(),
            "peepholes": self.peepholes,
            "lite_reset": self.lite_reset,
        }

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
        """Returns the outputs of all steps, and the last h and c."""
        input_masks, masks = self._dropout_masks(sequences, h, training)
        x = _recurrence.input_product(sequences, kernel, bias, input_masks)
        weights = [recurrent_kernel]
        if self.peepholes:
            weights.append(tf.convert_to_tensor(self.peephole_kernel))
        is_single = x.shape[0] == 1
        if training and self._is_fast() and not is_single:
            states, h, c = _recur_for_training(x, h, c, weights, mask, masks)
        else:
            activations = self.activation, self.recurrent_activation
            states, h, c, _ = _recur(x, h, c, weights, mask, masks, activations)
        return states, h, c

    def _fused(self, sequences):
        """Returns what `call` returns, by a function that TensorFlow Lite replaces."""

        def run(*arguments):
            outputs, h, c = self._run(*arguments)
            return outputs[-1], tf.transpose(outputs, (1, 0, 2)), h, c, tf.zeros(())

        # The converter recognizes this function by its name, arguments and results.
        # Only the outputs of all steps may be used.
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
        sequences = self._in_order(sequences)
        kernel, recurrent_kernel, bias = self._weights()
        if self.lite_reset:
            sequences, kernel = self._with_reset(sequences, kernel)
        states = self._first_states(sequences, None)
        outputs = run(sequences, *states, kernel, recurrent_kernel, bias)[1]
        if not self.return_sequences:
            return outputs[:, -1]
        return outputs[:, 1:] if self.lite_reset else outputs

    def _with_reset(self, sequences, kernel):
        """Prepends a step that clears the cell.

        The step uses an additional feature, which closes all gates.

        Returns:
            The longer sequences, and the kernel with weights for that feature.
        """
        batch, _, features = sequences.shape
        first = tf.one_hot(
            [[features]] * batch, features + 1, 1e4, 0, dtype=sequences.dtype
        )
        sequences = tf.pad(sequences, ((0, 0), (0, 0), (0, 1)))
        # Not beyond the largest weight, so that quantization loses no precision.
        largest = tf.maximum(tf.reduce_max(tf.abs(kernel)), 0.01)
        closing = tf.fill((1, 4 * self.units), -largest)
        return tf.concat([first, sequences], 1), tf.concat([kernel, closing], 0)


def _recur(
    x,
    h,
    c,
    weights,
    mask,
    dropout_masks,
    activations=(tf.tanh, tf.sigmoid),
    recorded=1,
):
    """Runs the recurrence over all steps.

    Args:
        x: Products of the inputs with their kernel, `(time, batch, 4 * units)`.
        h: First output, `(batch, units)`.
        c: First cell, `(batch, units)`.
        weights: The recurrent kernel and, with peepholes, their kernel.
        mask: Steps to read, `(time, batch, 1)`, or None.
        dropout_masks: Dropout masks of `h`, one per gate, or None.
        activations: Functions for the cell and for the gates.
        recorded: How many values to record of each step, in this order: new output,
            previous cell, the gates `i`, `f`, `g`, `o`, and tanh of the new cell. A
            sequence of a single step records only the output.

    Returns:
        The outputs of all steps, the last output, the last cell, and the arrays of the
        other values.
    """
    activation, recurrent_activation = activations
    recurrent_kernel, *peepholes = weights
    p_i, p_f, p_o = tf.unstack(peepholes[0]) if peepholes else (None,) * 3
    product = _recurrence.product_with(recurrent_kernel, dropout_masks)

    def step(t, h, c):
        z = x[t] + product(h)
        i, f, g, o = tf.split(z, 4, axis=1)
        i = recurrent_activation(i + p_i * c if peepholes else i)
        f = recurrent_activation(f + p_f * c if peepholes else f)
        g = activation(g)
        new_c = f * c + i * g
        tanh_c = activation(new_c)
        o = recurrent_activation(o + p_o * new_c if peepholes else o)
        new_h = o * tanh_c
        if mask is not None:
            new_h = tf.where(mask[t], new_h, h)
            new_c = tf.where(mask[t], new_c, c)
        return (new_h, new_c), (new_h, c, i, f, g, o, tanh_c)

    if x.shape[0] == 1:  # A decoder calls step by step and needs no loop.
        (h, c), _ = step(0, h, c)
        return h[None], h, c, []

    time = keras.ops.shape(x)[0]
    (h, c), arrays = _recurrence.scan(step, (h, c), time, recorded, h.shape)
    return arrays[0].stack(), h, c, arrays[1:]


def _recur_for_training(x, h, c, weights, mask, dropout_masks):
    """Does what `_recur` does, with a faster gradient than TensorFlow derives.

    Its loop computes only the gradients of the gates' arguments; the gradients of the
    weights are products over all steps.
    """

    @tf.custom_gradient
    def recur(x, h_0, c_0, *weights):
        states, h, c, arrays = _recur(
            x, h_0, c_0, weights, mask, dropout_masks, recorded=7
        )
        recurrent_kernel, *peepholes = weights
        p_i, p_f, p_o = tf.unstack(peepholes[0]) if peepholes else (None,) * 3

        def gradient(d_states, d_h, d_c):
            gradient_of_h = _recurrence.gradient_with(recurrent_kernel, dropout_masks)

            def step(t, d_h, d_c):
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
                new_d_h = gradient_of_h(d_z)
                d_before = d_new_c * f
                if peepholes:
                    d_before += d_i * p_i + d_f * p_f
                if mask is not None:
                    new_d_h = tf.where(mask[t], new_d_h, d_h)
                    d_before = tf.where(mask[t], d_before, d_c)
                return (new_d_h, d_before), (d_z,)

            time = keras.ops.shape(x)[0]
            (d_h, d_c), (d_x,) = _recurrence.scan(
                step, (d_h, d_c), time, 1, x.shape[1:], reverse=True
            )
            d_x = d_x.stack()
            before = tf.concat([h_0[None], states[:-1]], 0)
            d_weights = [_recurrence.kernel_gradient(before, d_x, dropout_masks)]
            if peepholes:
                d_i, d_f, _, d_o = tf.split(d_x, 4, axis=-1)
                before = arrays[0].stack()
                after = tf.concat([before[1:], c[None]], 0)
                sums = (d_i * before, d_f * before, d_o * after)
                d_weights.append(tf.stack([tf.reduce_sum(s, (0, 1)) for s in sums]))
            return d_x, d_h, d_c, *d_weights

        return (states, h, c), gradient

    return recur(x, h, c, *weights)
