"""A fully connected conditional random field, solved by mean-field inference."""

import keras
import numpy as np
import tensorflow as tf

from layers import _permutohedral_lattice


@keras.saving.register_keras_serializable(package="layers")
class DenseCRF(keras.layers.Layer):
    """Refines class scores so that nearby pixels of similar colour agree.

    This is a conditional random field (CRF) that connects every pixel with every other
    one. The connection of pixels i and j has the strength

        w1 exp(-|pi - pj|² / 2σα² - |Ii - Ij|² / 2σβ²) + w2 exp(-|pi - pj|² / 2σγ²)

    where p are positions and I colours. The first term is the appearance kernel, the
    second is the smoothness kernel. Each kernel K is normalized to `D^-1/2 K D^-1/2`,
    where D is the diagonal matrix of its row sums.

    Mean-field inference repeats three steps:

    1. Compute the marginals: the softmax of the current scores.
    2. Pass messages: for each pixel, sum the marginals of all pixels, weighted by the
       strength of the connections. The pixel itself counts too, as in the authors'
       implementation.
    3. Add the messages to the input scores.

    Two methods pass the messages:

    - `lattice` connects all pixels. Its time is proportional to their number. The
      appearance kernel is a filter in a permutohedral lattice. The smoothness kernel is
      a separable convolution, cut off at 3 σγ. Both use standard TensorFlow operations
      and run in TensorFlow Serving.
    - `windowed` connects the pixels within a window, at reduced resolution. It uses
      only the built-in operations of TensorFlow Lite.

    Gradients reach the scores and the weights, but not the images. A network and its
    CRF can be trained end to end.

    Args:
        iterations: Number of mean-field iterations. Defaults to 10.
        appearance_weight: Initial value of w1. Defaults to 4.
        position_sigma: σα, in pixels. Defaults to 60.
        color_sigma: σβ, in the units of the images. Defaults to 8.
        smoothness_weight: Initial value of w2. Defaults to 3.
        smoothness_sigma: σγ, in pixels. Defaults to 3.
        compatibility: `"potts"`: each class supports only itself. `"learned"`: a
            trainable matrix says how much each class supports each other class; it is
            initialized as `"potts"`. Defaults to `"potts"`.
        method: `"lattice"` or `"windowed"`. Defaults to `"lattice"`.
        window: Reach of the windowed method in each direction, in strides. Defaults
            to 5.
        stride: Factor by which the windowed method reduces the resolution. Defaults
            to 4.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: `[scores, images]`: the scores before softmax, and the images. The
            default `color_sigma` suits pixel values from 0 to 255.

    Input shape:
        `(batch, height, width, classes)` and `(batch, height, width, 3)`. Batch, height
        and width may be unknown.

    Output shape:
        `(batch, height, width, classes)`: refined scores. Their softmax gives the
        marginals.

    Raises:
        ValueError: A number is not positive, a number that must be whole is not, or
            `method` or `compatibility` is unknown.

    Example:

    >>> scores, images = np.zeros((1, 9, 8, 4)), np.zeros((1, 9, 8, 3))
    >>> layers.DenseCRF(iterations=5)([scores, images]).shape
    (1, 9, 8, 4)

    References:
        - [Krähenbühl and Koltun, 2011](https://arxiv.org/abs/1210.5644): the model
        - [Adams et al., 2010](https://doi.org/10.1111/j.1467-8659.2009.01645.x): the
          lattice
        - [Zheng et al., 2015](https://arxiv.org/abs/1502.03240): end-to-end training
        - [Teichmann and Cipolla, 2018](https://arxiv.org/abs/1805.04777): windows
    """

    def __init__(
        self,
        iterations=10,
        appearance_weight=4.0,
        position_sigma=60.0,
        color_sigma=8.0,
        smoothness_weight=3.0,
        smoothness_sigma=3.0,
        compatibility="potts",
        method="lattice",
        window=5,
        stride=4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.iterations = iterations
        self.appearance_weight = appearance_weight
        self.position_sigma = position_sigma
        self.color_sigma = color_sigma
        self.smoothness_weight = smoothness_weight
        self.smoothness_sigma = smoothness_sigma
        self.compatibility = compatibility
        self.method = method
        self.window = window
        self.stride = stride
        sigmas = ("position_sigma", "color_sigma", "smoothness_sigma")
        for name in ("iterations", *sigmas, "window", "stride"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"`{name}` must be above 0. Received: {name}={getattr(self, name)}"
                )
        for name in ("iterations", "window", "stride"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(
                    f"`{name}` must be a whole number. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        for name, choices in (
            ("compatibility", ("potts", "learned")),
            ("method", ("lattice", "windowed")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"`{name}` must be one of {choices}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        self.supports_jit = False  # XLA has no sparse matrices.

    def build(self, input_shape):
        scores_shape, _ = input_shape
        classes = scores_shape[-1]
        # The arguments keep their values, so the weights have names of their own.
        self.appearance = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.appearance_weight),
            name="appearance",
        )
        self.smoothness = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.smoothness_weight),
            name="smoothness",
        )
        self.support = self.add_weight(
            shape=(classes, classes),
            initializer="identity",
            trainable=self.compatibility == "learned",
            name="support",
        )

    def call(self, inputs):
        scores, images = inputs
        # A sum over all pixels overflows in half precision.
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        scores = tf.cast(scores, dtype)
        images = tf.stop_gradient(tf.cast(images, dtype))
        prepare = self._lattice if self.method == "lattice" else self._windowed
        pass_messages = prepare(images)
        refined = scores
        for _ in range(self.iterations):
            refined = scores + pass_messages(tf.nn.softmax(refined))
        return tf.cast(refined, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        scores_shape, _ = input_shape
        return scores_shape

    def get_config(self):
        return {
            **super().get_config(),
            "iterations": self.iterations,
            "appearance_weight": self.appearance_weight,
            "position_sigma": self.position_sigma,
            "color_sigma": self.color_sigma,
            "smoothness_weight": self.smoothness_weight,
            "smoothness_sigma": self.smoothness_sigma,
            "compatibility": self.compatibility,
            "method": self.method,
            "window": self.window,
            "stride": self.stride,
        }

    def _lattice(self, images):
        """Returns a function from marginals to messages of the whole image."""
        batch, height, width, _ = tf.unstack(tf.shape(images))
        dtype = images.dtype
        y, x = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
        positions = tf.cast(tf.stack([y, x], axis=-1), dtype) / self.position_sigma
        positions = tf.broadcast_to(positions, [batch, height, width, 2])
        features = tf.concat([positions, images / self.color_sigma], axis=-1)
        by_appearance = _permutohedral_lattice.permutohedral_filter(features)
        by_smoothness = gaussian_filter(height, width, self.smoothness_sigma, dtype)
        appearance_weight, smoothness_weight, support = self._weights(dtype)

        def pass_messages(marginals):
            # Weigh the vertices of the lattice, since they are fewer than the pixels.
            appearance = by_appearance(
                marginals, lambda blurred: blurred @ support * appearance_weight
            )
            smoothness = by_smoothness(marginals) * smoothness_weight
            if self.compatibility == "learned":
                smoothness = smoothness @ support
            return appearance + smoothness

        return pass_messages

    def _windowed(self, images):
        """Returns a function from marginals to messages within a window."""
        dtype = images.dtype
        stride, reach = self.stride, self.window
        steps = range(-reach, reach + 1)
        distances = np.array([dy**2 + dx**2 for dy in steps for dx in steps])
        distances = distances * stride**2 / 2

        def downsample(maps):
            if stride == 1:
                return maps
            return tf.nn.avg_pool2d(maps, stride, stride, "SAME")

        colors = downsample(images) / self.color_sigma
        batch, height, width, _ = tf.unstack(tf.shape(colors))
        if colors.shape[:3].is_fully_defined():  # TensorFlow Lite needs static sizes.
            batch, height, width, _ = colors.shape

        def windows(maps):
            """Returns the window of each position, along a new fourth axis."""
            channels = maps.shape[-1]
            maps = tf.pad(maps, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
            size = len(steps)
            rows = tf.concat([maps[:, i : i + height] for i in range(size)], axis=-1)
            rows = [rows[:, :, i : i + width] for i in range(size)]
            rows = tf.reshape(tf.concat(rows, axis=-1), [-1, size, size, channels])
            # The columns come first here; order each window by rows.
            rows = tf.transpose(rows, [0, 2, 1, 3])
            return tf.reshape(rows, [batch, height, width, size * size, channels])

        # These ones depend on the image. From constant ones, TensorFlow Lite would
        # compute the kernel at conversion and store it, which takes many megabytes.
        ones = tf.cast(tf.abs(colors[..., :1]) >= 0, dtype)
        inside = windows(ones)[..., 0]
        differences = windows(colors) - colors[:, :, :, None]
        differences = tf.reduce_sum(differences**2, axis=-1) / 2

        def normalize(kernel):
            kernel *= inside
            scale = 1 / tf.sqrt(tf.reduce_sum(kernel, axis=-1, keepdims=True))
            return kernel * scale * windows(scale)[..., 0]

        appearance_weight, smoothness_weight, support = self._weights(dtype)
        by_position = tf.cast(distances / self.position_sigma**2, dtype)
        appearance = tf.exp(-by_position - differences)
        smoothness = tf.cast(np.exp(-distances / self.smoothness_sigma**2), dtype)
        kernel = appearance_weight * normalize(appearance)
        kernel += smoothness_weight * normalize(smoothness * inside)

        def pass_messages(marginals):
            neighbors = windows(downsample(marginals))
            blurred = tf.reduce_sum(kernel[..., None] * neighbors, axis=3)
            blurred = blurred @ support
            if stride > 1:
                size = tf.shape(images)[1:3]
                blurred = tf.cast(tf.image.resize(blurred, size), dtype)
            return blurred

        return pass_messages

    def _weights(self, dtype):
        weights = (self.appearance, self.smoothness, self.support)
        return [tf.cast(weight, dtype) for weight in weights]


def gaussian_filter(height, width, sigma, dtype):
    """Returns a function that blurs maps by a normalized Gaussian over positions.

    Args:
        height: Height of the maps, in pixels.
        width: Width of the maps, in pixels.
        sigma: Standard deviation, in pixels.
        dtype: Data type of the maps.

    Returns:
        A function of maps, `(batch, height, width, channels)`.
    """
    reach = int(np.ceil(3 * sigma))
    profile = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))

    def blur(maps):
        channels = maps.shape[-1]
        kernel = np.tile(profile[:, None, None, None], (1, 1, channels, 1))
        kernel = tf.constant(kernel, dtype)
        strides = (1, 1, 1, 1)
        rows = tf.nn.depthwise_conv2d(maps, kernel, strides, "SAME")
        return tf.nn.depthwise_conv2d(
            rows, tf.transpose(kernel, (1, 0, 2, 3)), strides, "SAME"
        )

    scale = 1 / tf.sqrt(blur(tf.ones([1, height, width, 1], dtype)))
    return lambda maps: scale * blur(scale * maps)
