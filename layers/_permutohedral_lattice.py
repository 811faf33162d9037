"""Gaussian filtering in a permutohedral lattice, as `DenseCRF` needs it."""

import itertools

import numpy as np
import tensorflow as tf


def permutohedral_filter(features):
    """Returns a function that blurs maps by a Gaussian over features.

    The kernel K between positions i and j is `exp(-|fi - fj|² / 2)`. It is normalized
    to `D^-1/2 K D^-1/2`, where D is the diagonal matrix of its row sums. The filter has
    three linear steps:

    1. Splat: add the value of each position to the vertices of its simplex.
    2. Blur the vertex values along each direction of the lattice.
    3. Slice: interpolate the vertex values at each position.

    Splat and slice are one sparse matrix and its transpose.

    Args:
        features: `(batch, height, width, features)`.

    Returns:
        A function `apply(maps, transform)`. `maps` are `(batch, height, width,
        channels)`. `transform` is a linear function of the blurred vertex values,
        applied before slicing; it defaults to the identity.

    Reference:
        [Adams et al., 2010](https://doi.org/10.1111/j.1467-8659.2009.01645.x)
    """
    weights, vertices, neighbors = build_lattice(features)
    num_vertices = tf.shape(neighbors)[-1]

    def blur(values):
        for before, after in map(tf.unstack, tf.unstack(neighbors)):
            both = tf.gather(values, before) + tf.gather(values, after)
            values += both / 2
        return values

    ones = tf.ones_like(weights[:, :1])
    splat, slice_ = sparse_products(weights, vertices, num_vertices)
    # The authors' implementation normalizes in the same way. The row sums are above 0,
    # because every position contributes to its own.
    scale = 1 / tf.sqrt(slice_(blur(splat(ones))))
    splat, slice_ = sparse_products(weights * scale, vertices, num_vertices)

    def apply(maps, transform=lambda blurred: blurred):
        values = tf.reshape(maps, [-1, maps.shape[-1]])
        return tf.reshape(slice_(transform(blur(splat(values)))), tf.shape(maps))

    return apply


def build_lattice(features):
    """Finds the lattice simplex of each position, and the neighbours of each vertex.

    Args:
        features: `(batch, height, width, d)`.

    Returns:
        weights: Barycentric weights of each position in its simplex,
            `(positions, d + 1)`.
        vertices: Index of each vertex of that simplex, int `(positions, d + 1)`.
            Images of a batch share no vertices.
        neighbors: Index of the neighbours of each vertex, before and after it along
            each direction, int `(d + 1, 2, num_vertices)`. The last vertex stands for
            all missing neighbours; its values are always 0.
    """
    batch, height, width, _ = tf.unstack(tf.shape(features, tf.int64))
    dtype, d = features.dtype, features.shape[-1]
    corners = d + 1
    features = tf.reshape(features, [-1, d])
    positions = tf.shape(features, tf.int64)[0]

    # Project to the plane of d + 1 coordinates whose sum is 0. The scale makes one blur
    # along all directions a Gaussian of variance 1.
    basis = np.tril(np.ones((d, corners))) - np.diag(np.arange(1.0, corners), 1)[:d]
    lengths = np.arange(1, corners) * np.arange(2, corners + 1)
    basis *= np.sqrt(2 / 3 / lengths)[:, None]
    plane = tf.matmul(tf.constant(basis.T, dtype), features, transpose_b=True)
    # One vector per coordinate is faster than one matrix.
    plane = tf.unstack(plane)

    # Round to the closest point whose coordinates are multiples of d + 1, and rank the
    # differences to it in descending order. Coordinates are in units of d + 1.
    base = [tf.cast(tf.round(each), tf.int32) for each in plane]
    rest = [x - tf.cast(b, dtype) for x, b in zip(plane, base, strict=True)]
    excess = tf.add_n(base)
    rank = [excess] * corners
    for i in range(corners):
        for j in range(i + 1, corners):
            is_lower = tf.cast(rest[i] < rest[j], tf.int32)
            rank[i] += is_lower
            rank[j] += 1 - is_lower
    # If that point lies outside the plane, round the coordinates with the largest
    # differences the other way.
    for i in range(corners):
        wrap = tf.cast(rank[i] < 0, tf.int32) - tf.cast(rank[i] > d, tf.int32)
        rank[i] += corners * wrap
        base[i] += wrap
        rest[i] -= tf.cast(wrap, dtype)
    rest = sort_descending(rest)
    weights = [1 + rest[d] - rest[0]]
    weights += [rest[d - k] - rest[corners - k] for k in range(1, corners)]

    # Find the distinct simplices first: they are far fewer than the positions. Image,
    # base and rank identify a simplex. The last coordinate follows from the others.
    base = [tf.cast(each, tf.int64) for each in base[:d]]
    rank = [tf.cast(each, tf.int64) for each in rank[:d]]
    image = tf.repeat(tf.range(batch), height * width)
    simplex_keys, _ = pack_keys(image, base + rank, margin=0)
    _, simplex = tf.unique(simplex_keys)
    example = tf.math.unsorted_segment_max(  # One position of each simplex.
        tf.range(positions), simplex, tf.reduce_max(simplex) + 1
    )
    # Vertex k of a simplex is its base plus k in every coordinate, minus d + 1 in the k
    # coordinates of the highest rank.
    steps = np.array(
        [[k - corners * (r > d - k) for k in range(corners)] for r in range(corners)]
    )
    coordinates = [
        corners * tf.gather(b, example)[:, None]
        + tf.gather(steps, tf.gather(r, example))
        for b, r in zip(base, rank, strict=True)
    ]
    keys, units = pack_keys(tf.gather(image, example)[:, None], coordinates, corners)
    keys, vertex = tf.unique(tf.reshape(keys, [-1]))
    vertices = tf.gather(tf.reshape(vertex, [-1, corners]), simplex)

    # A neighbour differs by -1 in all coordinates but one, and by d in that one.
    order = tf.argsort(keys)
    sorted_keys = tf.gather(keys, order)
    missing = tf.size(keys)

    def find(keys):
        index = tf.minimum(tf.searchsorted(sorted_keys, keys), missing - 1)
        is_found = tf.gather(sorted_keys, index) == keys
        found = tf.where(is_found, tf.gather(order, index), missing)
        return tf.concat([found, [missing]], 0)

    directions = [corners * unit - tf.add_n(units) for unit in (*units, 0)]
    neighbors = tf.stack(
        [tf.stack([find(keys + step), find(keys - step)]) for step in directions]
    )
    return tf.stack(weights, axis=1), vertices, neighbors


def pack_keys(image, coordinates, margin):
    """Packs an image's index and integer coordinates into one key per point.

    Args:
        image: Index of the image of each point, int64.
        coordinates: A list of int64 tensors of the same shape.
        margin: The largest change that will be made to a coordinate of a packed key.

    Returns:
        The keys, and a list of how much one unit of each coordinate adds to a key.
        Keys beyond 2⁶³ wrap around; two points could then get the same key, which is
        very unlikely.
    """
    lowest = [tf.reduce_min(each) - margin for each in coordinates]
    # Odd spans keep all 64 bits in use when the keys wrap around.
    spans = [
        tf.bitwise.bitwise_or(tf.reduce_max(each) + margin + 1 - low, 1)
        for each, low in zip(coordinates, lowest, strict=True)
    ]
    units = [tf.ones([], tf.int64)]
    for span in reversed(spans):
        units.insert(0, units[0] * span)
    keys = image * units[0]
    for each, low, unit in zip(coordinates, lowest, units[1:], strict=True):
        keys += (each - low) * unit
    return keys, units[1:]


def sort_descending(values):
    """Sorts a list of tensors elementwise, with an odd-even sorting network."""
    values = list(values)
    for i in range(len(values)):
        for j in range(i % 2, len(values) - 1, 2):
            a, b = values[j], values[j + 1]
            values[j], values[j + 1] = tf.maximum(a, b), tf.minimum(a, b)
    return values


def sparse_products(weights, vertices, num_vertices, num_parts=4):
    """Returns the linear map from positions to vertices, and its transpose.

    Args:
        weights: `(positions, corners)`.
        vertices: Index of the vertex of each weight, int `(positions, corners)`.
        num_vertices: Number of vertices.
        num_parts: Number of parts of the positions that are multiplied in parallel,
            because one sparse product uses one thread only. Defaults to 4.

    Returns:
        A function from `(positions, channels)` to `(num_vertices, channels)`, and one
        in the opposite direction.
    """
    positions, corners = tf.unstack(tf.shape(weights))
    bounds = [positions * i // num_parts for i in range(num_parts + 1)]
    parts = []
    for start, end in itertools.pairwise(bounds):
        rows = tf.repeat(tf.range(end - start), corners)
        columns = tf.reshape(vertices[start:end], [-1])
        matrix = {
            "a_indices": tf.stack([rows, columns], axis=1),
            "a_values": tf.reshape(weights[start:end], [-1]),
            "a_shape": tf.cast(tf.stack([end - start, num_vertices]), tf.int64),
        }
        parts.append((start, end, matrix))

    def multiply(matrix, values, transpose):
        return tf.raw_ops.SparseTensorDenseMatMul(
            **matrix, b=values, adjoint_a=transpose
        )

    def splat(values):
        return tf.add_n(
            [multiply(matrix, values[start:end], True) for start, end, matrix in parts]
        )

    def slice_(values):
        return tf.concat(
            [multiply(matrix, values, False) for *_, matrix in parts], axis=0
        )

    # Each map is the gradient of the other. TensorFlow's own gradient would also cover
    # the weights, and that takes more memory than everything else.
    def with_gradient(function, gradient):
        return tf.custom_gradient(lambda values: (function(values), gradient))

    return with_gradient(splat, slice_), with_gradient(slice_, splat)
