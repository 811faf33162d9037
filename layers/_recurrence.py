"""What both recurrent layers share, however their gates work."""

import keras
import tensorflow as tf


def check_arguments(units, recurrent_dropout):
    """Checks the arguments of a constructor.

    Raises:
        ValueError: `units` is not a positive whole number, or `recurrent_dropout` lies
            outside of [0, 1).
    """
    if not isinstance(units, int) or units < 1:
        raise ValueError(
            "`units` must be a positive whole number, for instance units=128. "
            f"Received: units={units!r}"
        )
    if not 0 <= recurrent_dropout < 1:
        raise ValueError(
            "`recurrent_dropout` must be at least 0 and less than 1, for instance "
            f"0.2. Received: recurrent_dropout={recurrent_dropout!r}"
        )


def product_with_inputs(sequences, kernel, bias):
    """Returns the share of the inputs in the gates, `(time, batch, gates)`.

    The steps come first, so that each lies in one piece. The product is one of
    matrices, because TensorFlow adds the bias to such a one on the way.
    """
    x = tf.transpose(sequences, (1, 0, 2))
    time, batch, features = keras.ops.shape(x)
    x = tf.matmul(tf.reshape(x, (time * batch, features)), kernel)
    return tf.reshape(tf.nn.bias_add(x, bias), (time, batch, kernel.shape[-1]))


def steps_first(mask):
    """Returns a mask as the loop reads it, `(time, batch, 1)`, or None."""
    return None if mask is None else tf.transpose(mask)[..., None]


def without_hidden_steps(layer, outputs, last, mask, initial_state):
    """Clears the outputs of masked steps that have nothing to show.

    Args:
        layer: Tells whether Keras wants zeros at all masked steps.
        outputs: `(batch, time, units)`.
        last: The last of them, `(batch, units)`.
        mask: The steps to be read, `(batch, time)`, or None.
        initial_state: What the layer was called with.

    Returns:
        The outputs and the last of them.
    """
    if mask is not None and layer.zero_output_for_mask:
        outputs = tf.where(mask[..., None], outputs, 0)
    elif mask is not None and initial_state is not None:
        # Before the first step that is read there is no output to repeat.
        started = tf.cumsum(tf.cast(mask, tf.int32), 1) > 0
        outputs = tf.where(started[..., None], outputs, 0)
        last = outputs[:, -1]
    return outputs, last
