import numpy as np
import pytest
import tensorflow as tf

from layers import _permutohedral_lattice


@pytest.fixture
def features():
    """Two images with five features per pixel; the second repeats the first."""
    image = np.random.default_rng(0).normal(0, 2, (1, 7, 6, 5))
    return tf.constant(np.concatenate([image, image]))


def test_weights_are_barycentric(features):
    weights, vertices, _ = _permutohedral_lattice.build_lattice(features)
    assert weights.shape == vertices.shape == (2 * 7 * 6, 6)
    assert weights.numpy().min() >= 0
    np.testing.assert_allclose(np.sum(weights, axis=1), 1)


def test_equal_images_have_equal_weights_and_no_common_vertices(features):
    weights, vertices, _ = _permutohedral_lattice.build_lattice(features)
    np.testing.assert_array_equal(*np.split(weights, 2))
    first, second = np.split(vertices, 2)
    assert not set(first.flat) & set(second.flat)


def test_steps_to_a_neighbour_and_back_end_at_the_same_vertex(features):
    *_, neighbors = _permutohedral_lattice.build_lattice(features)
    missing = neighbors.shape[-1] - 1
    num_pairs = 0
    for before, after in neighbors.numpy():
        assert before[missing] == after[missing] == missing
        start = np.flatnonzero(before != missing)
        np.testing.assert_array_equal(after[before[start]], start)
        num_pairs += len(start)
    assert num_pairs > 0


def test_splat_is_the_transpose_of_slice(features):
    weights, vertices, neighbors = _permutohedral_lattice.build_lattice(features)
    positions, num_vertices = len(weights), neighbors.shape[-1]
    matrix = np.zeros((positions, num_vertices))
    for position, row in enumerate(vertices.numpy()):
        matrix[position, row] = weights[position]
    splat, slice_ = _permutohedral_lattice.sparse_products(
        weights, vertices, num_vertices
    )
    rng = np.random.default_rng(0)
    values, blurred = (
        rng.normal(size=(positions, 3)),
        rng.normal(size=(num_vertices, 3)),
    )
    np.testing.assert_allclose(splat(values), matrix.T @ values, atol=1e-12)
    np.testing.assert_allclose(slice_(blurred), matrix @ blurred, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_sorts_in_descending_order(size):
    values = np.random.default_rng(0).normal(size=(size, 100))
    result = _permutohedral_lattice.sort_descending(list(tf.constant(values)))
    np.testing.assert_array_equal(result, -np.sort(-values, axis=0))
