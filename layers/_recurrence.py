"""What `LSTM` and `GRU` share."""

import numbers

import keras
import tensorflow as tf


class FastRecurrence:
    """Runs the recurrence of a Keras layer in a faster loop.

    Derive from this class and from `keras.layers.LSTM` or `keras.layers.GRU`, in this
    order. Keras keeps the arguments, the weights and the configuration; `_run` of the
    derived class computes the outputs, `(time, batch, units)`, and the last states.
    """

    peepholes = False

    def __init__(self, units, *args, **kwargs):
        _check_arguments(units, **kwargs)
        super().__init__(units, *args, **kwargs)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        # Keras' loop has no peepholes.
        if not (self._is_fast() or self.peepholes):
            return super().call(sequences, initial_state, mask, training)
        mask = keras.tree.flatten(mask)[0]
        sequences = self._in_order(sequences)
        if mask is not None:
            mask = tf.transpose(tf.cast(mask, tf.bool))[..., None]
            mask = tf.reverse(mask, (0,)) if self.go_backwards else mask
        first_states = self._first_states(sequences, initial_state)
        outputs, *states = self._run(
            sequences, *first_states, *self._weights(), mask, training
        )
        if mask is not None and self.zero_output_for_mask:
            outputs = tf.where(mask, outputs, 0)
        elif mask is not None and (initial_state is not None or self.stateful):
            # Keras returns 0, not the first state, before the first unmasked step.
            started = tf.cumsum(tf.cast(mask, tf.int32)) > 0
            outputs = tf.where(started, outputs, 0)
        if self.stateful:
            for variable, state in zip(self.states, states, strict=True):
                variable.assign(state)
        result = (
            tf.transpose(outputs, (1, 0, 2)) if self.return_sequences else outputs[-1]
        )
        return (result, *states) if self.return_state else result

    def load_own_variables(self, store):
        """Loads the layer's weights, also from files that were saved without a cell."""
        count = len(store.keys())
        if count <= len(self.weights) - len(self.cell.weights):
            super().load_own_variables(store)
            return
        # Those files hold all weights in the layer itself, those of the cell first.
        weights = [*self.cell.weights, *self.weights][:count]
        for i, weight in enumerate(weights):
            weight.assign(store[str(i)])
        # Keras loads the cell next, which is not in the file: skip that once.
        cell = self.cell
        cell.load_own_variables = lambda _: delattr(cell, "load_own_variables")

    def _in_order(self, sequences):
        """Returns the sequences as a tensor, in the order of reading."""
        sequences = tf.cast(sequences, self.compute_dtype)
        return tf.reverse(sequences, (1,)) if self.go_backwards else sequences

    def _first_states(self, sequences, initial_state):
        """Returns the states before the first step, as a list.

        Raises:
            ValueError: The layer is stateful and the batch has another size.
        """
        if self.stateful and sequences.shape[0] not in (None, self.states[0].shape[0]):
            raise ValueError(
                "A stateful layer takes batches of one size, because it keeps a state "
                f"per sequence. Expected batch size: {self.states[0].shape[0]}. "
                f"Received: {sequences.shape[0]}"
            )
        if initial_state is None:
            batch, _, _ = keras.ops.shape(sequences)
            initial_state = (
                self.states if self.stateful else self.get_initial_state(batch)
            )
        return [
            keras.ops.convert_to_tensor(state, dtype=self.compute_dtype)
            for state in keras.tree.flatten(initial_state)
        ]

    def _weights(self):
        """Returns the kernel, the recurrent kernel and the bias as tensors."""
        kernel = tf.convert_to_tensor(self.cell.kernel)
        bias = (
            tf.convert_to_tensor(self.cell.bias)
            if self.use_bias
            else tf.zeros(kernel.shape[1:], kernel.dtype)
        )
        return kernel, tf.convert_to_tensor(self.cell.recurrent_kernel), bias

    def _dropout_masks(self, sequences, h, training):
        """Returns the dropout masks of the inputs and of the state.

        Each is a list, as `product_with` takes it, or None. Keras draws one mask per
        gate if `recurrent_dropout` is set, and one for all gates otherwise.
        """
        if not training:
            return None, None
        masks = (
            self.cell.get_dropout_mask(sequences[:, 0]),
            self.cell.get_recurrent_dropout_mask(h),
        )
        self.cell.reset_dropout_mask()
        self.cell.reset_recurrent_dropout_mask()
        return [None if m is None else keras.tree.flatten(m) for m in masks]

    def _is_fast(self):
        """Returns True if the arguments allow this class' loop and its gradient."""
        return (
            self.activation is keras.activations.tanh
            and self.recurrent_activation is keras.activations.sigmoid
            and not self.unroll
            and self.use_cudnn is not True
        )


def _check_arguments(units, dropout=0.0, recurrent_dropout=0.0, **_):
    """Checks the arguments of a constructor.

    Raises:
        ValueError: `units` is not a positive whole number, or a dropout rate is outside
            [0, 1).
    """
    if not isinstance(units, numbers.Integral) or units < 1:
        raise ValueError(
            "`units` must be a positive whole number, for instance units=128. "
            f"Received: units={units!r}"
        )
    rates = {"dropout": dropout, "recurrent_dropout": recurrent_dropout}
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(
                f"`{name}` must be at least 0 and less than 1, for instance 0.2. "
                f"Received: {name}={rate!r}"
            )


def input_product(sequences, kernel, bias, dropout_masks):
    """Returns the product of all inputs with the kernel, `(time, batch, gates)`.

    Time comes first, so that each step lies in one block of memory.
    """
    x = tf.transpose(sequences, (1, 0, 2))
    time, batch, _ = keras.ops.shape(x)
    # TensorFlow fuses the bias only with a product of two matrices.
    x = tf.nn.bias_add(product_with(kernel, dropout_masks)(x), bias)
    return tf.reshape(x, (time, batch, kernel.shape[-1]))


def product_with(kernel, dropout_masks=None):
    """Returns a function of values that computes their product with a kernel.

    Call it before a loop, so that the loop does not split the kernel at every step.

    Args:
        kernel: `(size, gates)`.
        dropout_masks: None, or a list of masks of the values, one for each equal part
            of the gates.
    """
    if not dropout_masks:
        return lambda values: tf.matmul(_as_matrix(values), kernel)
    products = [product_with(part) for part in _split(kernel, dropout_masks)]
    pairs = list(zip(products, dropout_masks, strict=True))
    return lambda values: tf.concat([p(values * mask) for p, mask in pairs], 1)


def gradient_with(kernel, dropout_masks=None):
    """Returns a function from the gradient of `product_with` to that of the values."""
    if not dropout_masks:
        return product_with(tf.transpose(kernel))
    gradients = [gradient_with(part) for part in _split(kernel, dropout_masks)]

    def gradient(d_product):
        parts = _split(d_product, dropout_masks)
        triples = zip(gradients, parts, dropout_masks, strict=True)
        return tf.add_n([gradient(part) * mask for gradient, part, mask in triples])

    return gradient


def kernel_gradient(values, d_product, dropout_masks=None):
    """Returns the gradient of the kernel of `product_with`, summed over all steps."""
    if not dropout_masks:
        # `tf.tensordot` is slower than a product of two matrices.
        return tf.matmul(_as_matrix(values), _as_matrix(d_product), transpose_a=True)
    pairs = zip(_split(d_product, dropout_masks), dropout_masks, strict=True)
    return tf.concat([kernel_gradient(values * mask, part) for part, mask in pairs], 1)


def _split(gates, dropout_masks):
    return tf.split(gates, len(dropout_masks), -1)


def _as_matrix(values):
    return tf.reshape(values, (-1, values.shape[-1]))


def scan(step, states, time, num_values, value_shape, reverse=False):
    """Calls a function for every step of time.

    Args:
        step: Function of the step's index and the states. Returns the new states and
            a sequence of values to record.
        states: The first states, a sequence of tensors.
        time: Number of steps.
        num_values: Number of values to record of each step; any others are dropped.
        value_shape: Shape of each value.
        reverse: If True, start from the last step. Defaults to False.

    Returns:
        The last states, and a list of a `tf.TensorArray` per recorded value.
    """

    def body(i, states, arrays):
        t = time - 1 - i if reverse else i
        states, values = step(t, *states)
        pairs = zip(arrays, values, strict=False)
        return i + 1, states, [array.write(t, value) for array, value in pairs]

    arrays = [
        tf.TensorArray(
            states[0].dtype, time, clear_after_read=False, element_shape=value_shape
        )
        for _ in range(num_values)
    ]
    _, states, arrays = tf.while_loop(
        lambda i, *_: i < time, body, (0, tuple(states), arrays)
    )
    return states, arrays
