import numpy as np
import tensorflow as tf

from apps.face_synthesis.augmentation import augment

NAMES = ("color", "translation", "cutout")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (64, 16, 16, 3)).astype("float32")


def test_a_seed_makes_the_same_changes():
    first, again, other = (augment(IMAGES, NAMES, [3, i]).numpy() for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.1
    np.testing.assert_array_equal(augment(IMAGES, (), [3, 1]), IMAGES)


def test_translation_moves_images_and_fills_with_zeros():
    moved = augment(IMAGES, ("translation",), [0, 0]).numpy()
    shifts = set()
    for before, after in zip(IMAGES, moved, strict=True):
        padded = np.pad(before, [(2, 2), (2, 2), (0, 0)])
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[y : y + 16, x : x + 16], after)
        ]
        assert len(found) == 1
        shifts |= set(found)
    assert len(shifts) > 15


def test_cutout_hides_a_square():
    cut = augment(IMAGES, ("cutout",), [0, 0]).numpy()
    is_hidden = (cut == 0).all(axis=-1)
    np.testing.assert_array_equal(cut[~is_hidden], IMAGES[~is_hidden])
    rows, columns = is_hidden.any(axis=2), is_hidden.any(axis=1)
    # Every row that is cut is cut in the same columns.
    np.testing.assert_array_equal(is_hidden, rows[:, :, None] & columns[:, None])
    assert rows.sum(axis=1).max() == columns.sum(axis=1).max() == 8
    assert rows.sum(axis=1).min() >= 3
    assert len(np.unique(rows.argmax(axis=1))) > 5


def test_color_changes_each_image_as_a_whole():
    changed = augment(IMAGES, ("color",), [0, 0]).numpy()
    for before, after in zip(IMAGES, changed, strict=True):
        # All three changes are linear in the pixels of an image.
        matrix = np.column_stack([before.reshape(-1, 3), np.ones(256)])
        _, residuals, *_ = np.linalg.lstsq(matrix, after.reshape(-1, 3), rcond=None)
        np.testing.assert_allclose(residuals, 0, atol=1e-4)
    brightness = changed.mean(axis=(1, 2, 3)) - IMAGES.mean(axis=(1, 2, 3))
    assert -0.5 <= brightness.min() < -0.3
    assert 0.3 < brightness.max() <= 0.5


def test_gradients_reach_the_images():
    images = tf.Variable(IMAGES[:4])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(augment(images, NAMES, [0, 0])))
    gradient = tape.gradient(loss, images).numpy()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum(axis=(1, 2, 3)) > 0).all()
