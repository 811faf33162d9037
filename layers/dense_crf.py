"""A fully connected conditional random field, solved by mean-field iterations."""

import itertools

import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable(package="layers")
class DenseCRF(keras.layers.Layer):
    """Refines class scores so that near pixels of like colour agree.

    Every pixel is joined to every one, with the strength

        w1 exp(-|pi - pj|² / 2σα² - |Ii - Ij|² / 2σβ²) + w2 exp(-|pi - pj|² / 2σγ²)

    of positions p and colours I; each of the two kernels K is normalized to
    `D^-1/2 K D^-1/2`, D being the diagonal of its row sums. One mean-field iteration
    computes marginals, sums those of all pixels by these strengths, a pixel's own
    included as in the authors' implementation, and adds the sums to the scores. Two
    methods sum:

    - `lattice` reaches every pixel, in time proportional to their number: the first
      kernel is a filter in a permutohedral lattice, the second, which is short, a
      separable convolution cut at 3 σγ. They consist of plain TensorFlow operations
      and run in TensorFlow Serving.
    - `windowed` reaches the pixels of a window, at reduced resolution. All its
      operations are built into TensorFlow Lite.

    Gradients reach the scores and the weights, not the images, so that a network and
    its CRF can be trained end to end.

    Args:
        iterations: Mean-field iterations. Defaults to 10.
        appearance_weight: w1, what it starts from. Defaults to 4.
        position_sigma: σα, in pixels. Defaults to 60.
        color_sigma: σβ, in the units of the images. Defaults to 8.
        smoothness_weight: w2, what it starts from. Defaults to 3.
        smoothness_sigma: σγ, in pixels. Defaults to 3.
        compatibility: `potts`, by which a class supports itself alone, or `learned`, a
            matrix of how much each class supports each, which starts as `potts`.
            Defaults to `potts`.
        method: `lattice` or `windowed`. Defaults to `lattice`.
        window: Reach of the windowed method to each side, in strides. Defaults to 5.
        stride: By how much the windowed method reduces the resolution. Defaults to 4.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: The scores before softmax, and the images, from 0 to 255 if the default
            `color_sigma` shall suit.

    Input shape:
        `(batch, height, width, classes)` and `(batch, height, width, 3)`; all sizes but
        the numbers of classes and of colours may be unknown.

    Output shape:
        `(batch, height, width, classes)`: scores whose softmax are the marginals.

    Raises:
        ValueError: A number is not positive, or a method or compatibility is unknown.

    Example:

    >>> scores, images = np.zeros((1, 9, 8, 4)), np.zeros((1, 9, 8, 3))
    >>> layers.DenseCRF(iterations=5)([scores, images]).shape
    (1, 9, 8, 4)

    References:
        - [Krähenbühl and Koltun, 2011](https://arxiv.org/abs/1210.5644): the model
        - [Adams et al., 2010](https://doi.org/10.1111/j.1467-8659.2009.01645.x): the
          lattice
        - [Zheng et al., 2015](https://arxiv.org/abs/1502.03240): training through it
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
        # Built under other names than the arguments, which stay as they came.
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
        # Half precision cannot hold a sum over all pixels.
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        scores = tf.cast(scores, dtype)
        images = tf.stop_gradient(tf.cast(images, dtype))
        prepare = self._lattice if self.method == "lattice" else self._windows
        messages = prepare(images)
        refined = scores
        for _ in range(self.iterations):
            refined = scores + messages(tf.nn.softmax(refined))
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
        """Returns the function from marginals to messages from the whole image."""
        batch, height, width, _ = tf.unstack(tf.shape(images))
        dtype = images.dtype
        y, x = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
        positions = tf.cast(tf.stack([y, x], axis=-1), dtype) / self.position_sigma
        positions = tf.broadcast_to(positions, [batch, height, width, 2])
        features = tf.concat([positions, images / self.color_sigma], axis=-1)
        filter_appearance = permutohedral_filter(features)
        filter_smoothness = gaussian_filter(height, width, self.smoothness_sigma, dtype)
        appearance, smoothness, support = self._weights(dtype)

        def messages(marginals):
            alike = filter_appearance(
                marginals, lambda sums: sums @ support * appearance
            )
            near = filter_smoothness(marginals) * smoothness
            return alike + (near @ support if self.compatibility == "learned" else near)

        return messages

    def _windows(self, images):
        """Returns the function from marginals to messages from a window."""
        dtype = images.dtype
        stride, reach = self.stride, self.window
        steps = range(-reach, reach + 1)
        distances = np.array([dy**2 + dx**2 for dy in steps for dx in steps])
        distances = distances * stride**2 / 2

        def reduce(maps):
            return (
                tf.nn.avg_pool2d(maps, stride, stride, "SAME") if stride > 1 else maps
            )

        colors = reduce(images) / self.color_sigma
        batch, height, width, _ = tf.unstack(tf.shape(colors))
        is_static = colors.shape[:3].is_fully_defined()
        if is_static:  # TensorFlow Lite wants to know.
            batch, height, width, _ = colors.shape

        def windows(maps):
            """Lays the surroundings of each position along a new axis, the fourth."""
            channels = maps.shape[-1]
            maps = tf.pad(maps, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
            size = len(steps)
            rows = tf.concat([maps[:, i : i + height] for i in range(size)], axis=-1)
            rows = [rows[:, :, i : i + width] for i in range(size)]
            rows = tf.reshape(tf.concat(rows, axis=-1), [-1, size, size, channels])
            # From columns of rows to rows of columns.
            rows = tf.transpose(rows, [0, 2, 1, 3])
            return tf.reshape(rows, [batch, height, width, size * size, channels])

        # Ones that depend on the image: TensorFlow Lite would store the kernel made of
        # constants, many megabytes, instead of computing it.
        ones = tf.cast(tf.abs(colors[..., :1]) >= 0, dtype)
        inside = windows(ones)[..., 0]
        differences = windows(colors) - colors[:, :, :, None]
        differences = tf.reduce_sum(differences**2, axis=-1) / 2

        def normalize(kernel):
            kernel *= inside
            scale = 1 / tf.sqrt(tf.reduce_sum(kernel, axis=-1, keepdims=True))
            return kernel * scale * windows(scale)[..., 0]

        appearance, smoothness, support = self._weights(dtype)
        by_position = tf.cast(distances / self.position_sigma**2, dtype)
        near = tf.cast(np.exp(-distances / self.smoothness_sigma**2), dtype)
        kernel = appearance * normalize(tf.exp(-by_position - differences))
        kernel += smoothness * normalize(near * inside)

        def messages(marginals):
            around = windows(reduce(marginals))
            sums = tf.reduce_sum(kernel[..., None] * around, axis=3)
            sums = sums @ support
            if stride > 1:
                sums = tf.cast(tf.image.resize(sums, tf.shape(images)[1:3]), dtype)
            return sums

        return messages

    def _weights(self, dtype):
        weights = (self.appearance, self.smoothness, self.support)
        return [tf.cast(weight, dtype) for weight in weights]


def gaussian_filter(height, width, sigma, dtype):
    """Returns a function that blurs images by a normalized Gaussian.

    Args:
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        sigma: Standard deviation in pixels.
        dtype: The type of the images.

    Returns:
        A function of images, `(batch, height, width, channels)`.
    """
    reach = int(np.ceil(3 * sigma))
    profile = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))

    def blur(images):
        channels = images.shape[-1]
        kernel = np.tile(profile[:, None, None, None], (1, 1, channels, 1))
        kernel = tf.constant(kernel, dtype)
        strides = (1, 1, 1, 1)
        rows = tf.nn.depthwise_conv2d(images, kernel, strides, "SAME")
        return tf.nn.depthwise_conv2d(
            rows, tf.transpose(kernel, (1, 0, 2, 3)), strides, "SAME"
        )

    scale = 1 / tf.sqrt(blur(tf.ones([1, height, width, 1], dtype)))
    return lambda images: scale * blur(scale * images)


def permutohedral_filter(features):
    """Returns a function that filters by a normalized Gaussian over features.

    The kernel between two positions is `exp(-|fi - fj|² / 2)`. Values are splatted onto
    the vertices of a lattice of simplices in the space of features, blurred along the
    lattice, and sliced out again; both linear maps hold as many numbers per position as
    a simplex has vertices.

    Args:
        features: `(batch, height, width, features)`.

    Returns:
        A function of maps, `(batch, height, width, channels)`, and of a linear function
        of the blurred vertices that shall be applied in between.

    Reference:
        [Adams et al., 2010](https://doi.org/10.1111/j.1467-8659.2009.01645.x)
    """
    weights, vertices, neighbors = permutohedral_lattice(features)
    size = tf.shape(neighbors)[-1]

    def blur(values):
        for before, after in map(tf.unstack, tf.unstack(neighbors)):
            sums = tf.gather(values, before) + tf.gather(values, after)
            values += sums / 2
        return values

    ones = tf.ones_like(weights[:, :1])
    splat, slice_ = sparse_products(weights, vertices, size)
    # The reference scales the same way; isolated positions have a sum of their own.
    scale = 1 / tf.sqrt(slice_(blur(splat(ones))))
    splat, slice_ = sparse_products(weights * scale, vertices, size)

    def apply(maps, change=lambda sums: sums):
        values = tf.reshape(maps, [-1, maps.shape[-1]])
        return tf.reshape(slice_(change(blur(splat(values)))), tf.shape(maps))

    return apply


def permutohedral_lattice(features):
    """Finds the simplex of the permutohedral lattice that each position lies in.

    Args:
        features: `(batch, height, width, features)`.

    Returns:
        With d features: the barycentric weights of each position in its simplex,
        `(positions, d + 1)`; the vertices of that simplex, int `(positions, d + 1)`;
        and the neighbours of each vertex before and after it along each direction, int
        `(d + 1, 2, vertices + 1)`. The last vertex stands for those that are missing;
        its values are always 0. Different images of a batch share no vertices.
    """
    batch, height, width, _ = tf.unstack(tf.shape(features, tf.int64))
    dtype, d = features.dtype, features.shape[-1]
    corners = d + 1
    features = tf.reshape(features, [-1, d])
    positions = tf.shape(features, tf.int64)[0]

    # Into the plane of d + 1 coordinates whose sum is 0, in units of d + 1, scaled so
    # that one blur along all directions has the variance 1.
    basis = np.tril(np.ones((d, corners))) - np.diag(np.arange(1.0, corners), 1)[:d]
    lengths = np.arange(1, corners) * np.arange(2, corners + 1)
    basis *= np.sqrt(2 / 3 / lengths)[:, None]
    plane = tf.matmul(tf.constant(basis.T, dtype), features, transpose_b=True)
    plane = tf.unstack(plane)  # One vector per coordinate; these are fast.

    # The nearest point whose coordinates are multiples of d + 1, and the order of the
    # differences to it, the largest first.
    base = [tf.cast(tf.round(each), tf.int32) for each in plane]
    rest = [x - tf.cast(b, dtype) for x, b in zip(plane, base, strict=True)]
    excess = tf.add_n(base)
    rank = [excess] * corners
    for i in range(corners):
        for j in range(i + 1, corners):
            lower = tf.cast(rest[i] < rest[j], tf.int32)
            rank[i] += lower
            rank[j] += 1 - lower
    # If that point is outside the plane, those farthest off are rounded the other way.
    for i in range(corners):
        wrap = tf.cast(rank[i] < 0, tf.int32) - tf.cast(rank[i] > d, tf.int32)
        rank[i] += corners * wrap
        base[i] += wrap
        rest[i] -= tf.cast(wrap, dtype)
    rest = sort_descending(rest)
    weights = [1 + rest[d] - rest[0]]
    weights += [rest[d - k] - rest[corners - k] for k in range(1, corners)]

    # Positions in the same simplex share its vertices, so that few remain to be found.
    # One number names a simplex: its image, base and order; the last coordinates follow
    # from the others.
    base = [tf.cast(each, tf.int64) for each in base[:d]]
    rank = [tf.cast(each, tf.int64) for each in rank[:d]]
    image = tf.repeat(tf.range(batch), height * width)
    names, _ = pack(image, base + rank, margin=0)
    _, simplex = tf.unique(names)
    one_of_each = tf.math.unsorted_segment_max(
        tf.range(positions), simplex, tf.reduce_max(simplex) + 1
    )
    # Vertex k of a simplex lies k steps of 1 from its base, the k coordinates of the
    # highest rank wrapping around.
    steps = np.array(
        [[k - corners * (r > d - k) for k in range(corners)] for r in range(corners)]
    )
    coordinates = [
        corners * tf.gather(b, one_of_each)[:, None]
        + tf.gather(steps, tf.gather(r, one_of_each))
        for b, r in zip(base, rank, strict=True)
    ]
    names, units = pack(tf.gather(image, one_of_each)[:, None], coordinates, corners)
    names, vertex = tf.unique(tf.reshape(names, [-1]))
    vertices = tf.gather(tf.reshape(vertex, [-1, corners]), simplex)

    # Neighbours are a step of -1 away in all coordinates but one, which makes up for
    # the others.
    order = tf.argsort(names)
    in_order = tf.gather(names, order)
    missing = tf.size(names)

    def find(names):
        at = tf.minimum(tf.searchsorted(in_order, names), missing - 1)
        found = tf.gather(in_order, at) == names
        return tf.concat([tf.where(found, tf.gather(order, at), missing), [missing]], 0)

    directions = [corners * unit - tf.add_n(units) for unit in (*units, 0)]
    neighbors = tf.stack(
        [tf.stack([find(names + step), find(names - step)]) for step in directions]
    )
    return tf.stack(weights, axis=1), vertices, neighbors


def pack(image, coordinates, margin):
    """Packs whole coordinates into one number each.

    Args:
        image: Number of the image that they belong to, int64.
        coordinates: A list of int64 tensors of the same shape.
        margin: By how much a coordinate may be changed afterwards.

    Returns:
        The numbers, and what each coordinate adds to them per unit. Beyond 2⁶³ the
        numbers wrap around; that two of them meet then is possible but unlikely.
    """
    lowest = [tf.reduce_min(each) - margin for each in coordinates]
    # Odd spans keep all 64 bits in use where the numbers wrap around.
    spans = [
        tf.bitwise.bitwise_or(tf.reduce_max(each) + margin + 1 - low, 1)
        for each, low in zip(coordinates, lowest, strict=True)
    ]
    units = [tf.ones([], tf.int64)]
    for span in reversed(spans):
        units.insert(0, units[0] * span)
    numbers = image * units[0]
    for each, low, unit in zip(coordinates, lowest, units[1:], strict=True):
        numbers += (each - low) * unit
    return numbers, units[1:]


def sort_descending(values):
    """Sorts a list of tensors elementwise, by a network of exchanges."""
    values = list(values)
    for i in range(len(values)):
        for j in range(i % 2, len(values) - 1, 2):
            a, b = values[j], values[j + 1]
            values[j], values[j + 1] = tf.maximum(a, b), tf.minimum(a, b)
    return values


def sparse_products(weights, vertices, size, parts=4):
    """Returns the linear map from positions to vertices, and its transpose.

    Args:
        weights: `(positions, corners)`.
        vertices: The vertex that each weight belongs to, int `(positions, corners)`.
        size: Number of vertices.
        parts: How many parts of the positions are multiplied side by side; the
            operation itself uses one thread.

    Returns:
        A function from `(positions, channels)` to `(vertices, channels)`, and one back.
    """
    positions, corners = tf.unstack(tf.shape(weights))
    bounds = [positions * i // parts for i in range(parts + 1)]
    pieces = []
    for start, end in itertools.pairwise(bounds):
        rows = tf.repeat(tf.range(end - start), corners)
        columns = tf.reshape(vertices[start:end], [-1])
        matrix = {
            "a_indices": tf.stack([rows, columns], axis=1),
            "a_values": tf.reshape(weights[start:end], [-1]),
            "a_shape": tf.cast(tf.stack([end - start, size]), tf.int64),
        }
        pieces.append((start, end, matrix))

    def multiply(matrix, values, transpose):
        return tf.raw_ops.SparseTensorDenseMatMul(
            **matrix, b=values, adjoint_a=transpose
        )

    def splat(values):
        return tf.add_n(
            [multiply(matrix, values[start:end], True) for start, end, matrix in pieces]
        )

    def slice_(values):
        return tf.concat(
            [multiply(matrix, values, False) for *_, matrix in pieces], axis=0
        )

    # Each is the other's gradient; TensorFlow would ask for that of the weights too,
    # which takes more memory than all the rest.
    def with_gradient(function, gradient):
        return tf.custom_gradient(lambda values: (function(values), gradient))

    return with_gradient(splat, slice_), with_gradient(slice_, splat)
