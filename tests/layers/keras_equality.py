"""Helpers that compare recurrent layers with those of Keras."""

import keras
import numpy as np
import tensorflow as tf

# Sequences of five steps: whole, padded right, padded left, with holes, empty.
MASK = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0] * 5], bool
)


def values(*shape, seed=0):
    """Returns random numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer, features=3, batch=None):
    """Builds a layer and sets every weight to random values."""
    layer.build((batch, None, features))
    shapes = [weight.shape for weight in layer.weights]
    layer.set_weights([values(*shape, seed=i) / 2 for i, shape in enumerate(shapes)])
    return layer


def results_and_gradients(
    layer, inputs, state=(), training=True, mask=None, max_steps=None
):
    """Returns all outputs, and the gradients of the inputs, states and weights.

    Only the first `max_steps` outputs of a sequence enter the loss, all by default.
    """
    inputs, *state = map(tf.Variable, [inputs, *state])

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            outputs = layer(
                inputs, initial_state=state or None, training=training, mask=mask
            )
            outputs = keras.tree.flatten(outputs)
            outputs[0] = outputs[0][:, :max_steps]
            # Every element has another weight in the loss.
            loss = sum(
                tf.reduce_sum(output * values(*output.shape, seed=i))
                for i, output in enumerate(outputs)
            )
        weights = [weight.value for weight in layer.trainable_weights]
        return outputs, tape.gradient(loss, [inputs, *state, *weights])

    return keras.tree.flatten(compute())


def assert_all_close(found, expected, tolerance=1e-5):
    """Asserts that two lists of arrays are equal within a tolerance."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
