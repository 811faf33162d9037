"""Gated recurrent unit."""

import keras
import tensorflow as tf

from layers import _recurrence


@keras.saving.register_keras_serializable(package="layers")
class GRU(_recurrence.FastRecurrence, keras.layers.GRU):
    """Gated recurrent unit: a drop-in for `keras.layers.GRU` that trains faster.

    At every step the update gate `z` decides how much of the state to keep, and the
    reset gate `r` how much of the state the candidate `g` sees:

        z, r = sigmoid(x W + b + h U + d)    with W, b, U and d for each
        g = tanh(x W + b + r * (h U + d))
        h = z * h + (1 - z) * g

    With `reset_after=False`, as in the paper, the reset comes before the product, and
    there is no second bias `d`:

        g = tanh(x W + b + (r * h) U)

    The products with the inputs are computed for all steps at once, before the loop.
    The gradient is written by hand: the products for the weights' gradients are
    computed for all steps at once, after the loop. Keras' own loop runs with other
    activations than the default ones, `unroll=True` and `use_cudnn=True`.

    Args:
        units: Size of the output.
        *args: The other arguments of `keras.layers.GRU`, in its order.
        **kwargs: Arguments of `keras.layers.GRU`, with its defaults, and base layer
            arguments, such as `name` and `dtype`. `use_cudnn="auto"` does not use
            cuDNN, which rejects masks that are not right-padded. `implementation` only
            sets whether every gate has its own dropout mask (1), because the products
            with the inputs do not run inside the loop.

    Call arguments:
        sequences: A batch of sequences.
        initial_state: State to start from, or a list of it. Defaults to zeros, or to
            the last state if `stateful`.
        mask: Boolean `(batch, time)`, True for steps to read. A masked step keeps the
            state and repeats the previous output, or returns 0 if
            `zero_output_for_mask`. Defaults to no mask.
        training: If True, apply dropout. Defaults to False.

    Input shape:
        `(batch, time, features)`; batch and time may be unknown.

    Output shape:
        `(batch, units)`, or `(batch, time, units)` with `return_sequences`. With
        `return_state` the last state follows, `(batch, units)`.

    Raises:
        ValueError: `units` is not a positive whole number, a dropout rate is outside
            [0, 1), or the layer is stateful and the batch has another size.

    Example:

    >>> layers.GRU(32, return_sequences=True)(np.zeros((4, 10, 8))).shape
    (4, 10, 32)

    Reference:
        [Cho et al., 2014](https://arxiv.org/abs/1406.1078), section 2.3
    """

    @classmethod
    def from_config(cls, config):
        # Files of the first version have no `reset_after`; it was always False.
        if "dtype" in config:
            config = {"reset_after": False, **config}
        return super().from_config(config)

    def _run(self, sequences, h, kernel, recurrent_kernel, bias, mask, training):
        """Returns the outputs of all steps and the last state."""
        input_masks, masks = self._dropout_masks(sequences, h, training)
        candidate_bias = None
        if self.reset_after and self.use_bias:
            # Only the candidate needs its second bias apart from the first.
            bias, recurrent_bias = tf.unstack(bias)
            gates_bias, candidate_bias = tf.split(
                recurrent_bias, (2 * self.units, self.units)
            )
            bias += tf.pad(gates_bias, ((0, self.units),))
        elif self.reset_after:
            candidate_bias = tf.zeros(self.units, bias.dtype)
        x = _recurrence.input_product(sequences, kernel, bias, input_masks)
        recur = _recur_for_training if training else _recur
        states, h, *_ = recur(x, h, recurrent_kernel, candidate_bias, mask, masks)
        return states, h


def _recur(x, h, recurrent_kernel, candidate_bias, mask, dropout_masks, recorded=1):
    """Runs the recurrence over all steps.

    Args:
        x: Products of the inputs with their kernel, `(time, batch, 3 * units)`.
        h: First state, `(batch, units)`.
        recurrent_kernel: Weights of the state.
        candidate_bias: Bias of the candidate's product with the state. If None, the
            reset comes before that product.
        mask: Steps to read, `(time, batch, 1)`, or None.
        dropout_masks: Dropout masks of the state, one per gate, or None.
        recorded: How many values to record of each step, in this order: new state,
            previous state, `z`, `r`, `g`, and the candidate's product with the state.

    Returns:
        The states of all steps, the last one, and the arrays of the other values.
    """
    resets_after = candidate_bias is not None
    parts = _parts(h)
    kernels = tf.split(recurrent_kernel, parts, 1)
    for_gates, for_candidate = map(
        _recurrence.product_with, kernels, _masks_of_parts(dropout_masks)
    )

    def step(t, h):
        x_gates, x_candidate = tf.split(x[t], parts, 1)
        z, r = tf.split(tf.sigmoid(x_gates + for_gates(h)), 2, 1)
        if resets_after:
            inner = for_candidate(h) + candidate_bias
            g = tf.tanh(x_candidate + r * inner)
        else:
            inner = for_candidate(r * h)
            g = tf.tanh(x_candidate + inner)
        new_h = g + z * (h - g)
        if mask is not None:
            new_h = tf.where(mask[t], new_h, h)
        return (new_h,), (new_h, h, z, r, g, inner)

    time = keras.ops.shape(x)[0]
    (h,), arrays = _recurrence.scan(step, (h,), time, recorded, h.shape)
    return arrays[0].stack(), h, arrays[1:]


def _recur_for_training(x, h, recurrent_kernel, candidate_bias, mask, dropout_masks):
    """Does what `_recur` does, with a faster gradient than TensorFlow derives.

    Its loop computes only the gradients of the arguments of the gates and the
    candidate; the gradients of the weights are products over all steps.
    """
    resets_after = candidate_bias is not None

    @tf.custom_gradient
    def recur(x, h, recurrent_kernel, *biases):
        states, last, arrays = _recur(
            x,
            h,
            recurrent_kernel,
            biases[0] if resets_after else None,
            mask,
            dropout_masks,
            recorded=6 if resets_after else 5,
        )

        def gradient(d_states, d_h):
            parts = _parts(h)
            kernels = tf.split(recurrent_kernel, parts, 1)
            masks = _masks_of_parts(dropout_masks)
            from_gates, from_candidate = map(_recurrence.gradient_with, kernels, masks)

            def step(t, d_h):
                before, z, r, g, *inner = (array.read(t) for array in arrays)
                d_h += d_states[t]
                d_g = tf.raw_ops.TanhGrad(y=g, dy=d_h * (1 - z))
                d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_h * (before - g))
                if resets_after:
                    d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_g * inner[0])
                    d_before = from_candidate(d_g * r)
                else:
                    d_reset = from_candidate(d_g)
                    d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_reset * before)
                    d_before = d_reset * r
                d_before += d_h * z + from_gates(tf.concat([d_z, d_r], 1))
                d_arguments = tf.concat([d_z, d_r, d_g], 1)
                if mask is not None:
                    d_before = tf.where(mask[t], d_before, d_h)
                    d_arguments = tf.where(mask[t], d_arguments, 0)
                return (d_before,), (d_arguments,)

            time = keras.ops.shape(x)[0]
            (d_h,), (d_x,) = _recurrence.scan(
                step, (d_h,), time, 1, x.shape[1:], reverse=True
            )
            d_x = d_x.stack()
            before, r = arrays[0].stack(), arrays[2].stack()
            d_gates, d_candidate = tf.split(d_x, parts, -1)
            if resets_after:
                values, d_candidate = (before, before), d_candidate * r
            else:
                values = before, before * r
            d_kernels = map(
                _recurrence.kernel_gradient, values, (d_gates, d_candidate), masks
            )
            d_bias = [tf.reduce_sum(d_candidate, (0, 1))] if resets_after else []
            return d_x, d_h, tf.concat([*d_kernels], 1), *d_bias

        return (states, last), gradient

    return recur(x, h, recurrent_kernel, *([candidate_bias] if resets_after else []))


def _parts(h):
    """Returns the sizes of both gates together and of the candidate."""
    units = h.shape[-1]
    return 2 * units, units


def _masks_of_parts(dropout_masks):
    return (dropout_masks[:2], dropout_masks[2:]) if dropout_masks else (None, None)
