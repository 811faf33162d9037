import numpy as np

from apps.common.digit_scenes import (
    add_noise,
    crop_background,
    digit_ink,
    materials,
    paint_digit,
)


def test_training_and_test_scenes_share_no_digit_and_no_part_of_a_photograph():
    train_digits, _, train_backgrounds = materials("train")
    test_digits, _, test_backgrounds = materials("test")
    assert len(train_digits) + len(test_digits) == 1797
    assert not {d.tobytes() for d in train_digits} & {d.tobytes() for d in test_digits}
    for ours, theirs in zip(train_backgrounds, test_backgrounds, strict=True):
        assert ours.shape[1] + theirs.shape[1] == 640
        assert not (ours[:, -40:] == theirs[:, :40]).all()


def test_backgrounds_are_dark_parts_of_the_photographs():
    photograph = np.arange(50 * 60 * 3).reshape(50, 60, 3)  # No pixel comes twice.
    random = np.random.default_rng(0)
    parts = [crop_background(random, [photograph], 32) / 0.6 for _ in range(8)]
    corners = []
    for part in parts:
        top, left = divmod(round(part[0, 0, 0]) // 3, 60)
        np.testing.assert_allclose(part, photograph[top : top + 32, left : left + 32])
        corners.append((top, left))
    assert all(len(set(each)) > 4 for each in zip(*corners, strict=True))


def test_a_digit_is_painted_in_one_bright_colour_on_its_ink():
    digits, labels, _ = materials("train")
    ink = digit_ink(digits[labels == 0][0], 20)
    assert ink.shape == (20, 20)
    assert 0.2 < ink.mean() < 0.7
    assert not ink[10, 10]  # A zero is hollow.
    scene = np.zeros((40, 50, 3))
    paint_digit(np.random.default_rng(0), scene, ink, top=15, left=25)
    painted = (scene > 0).all(axis=-1)
    np.testing.assert_array_equal(painted[15:35, 25:45], ink)
    assert painted.sum() == ink.sum()
    assert len(np.unique(scene[painted], axis=0)) == 1
    assert 150 <= scene[painted].min() <= scene[painted].max() <= 255


def test_noise_stays_within_the_range_of_pixels():
    scene = np.full((64, 64, 3), 128.0)
    scene[:32] = 255
    noisy = add_noise(np.random.default_rng(0), scene)
    assert noisy.dtype == np.uint8
    assert noisy[32:].std() > 6
    assert noisy[:32].min() > 200
    assert (scene == [[[128]]]).sum() == 32 * 64 * 3  # The scene is as it was.
