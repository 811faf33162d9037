import numpy as np
import pytest
from PIL import Image

from apps.common.errors import BadInput
from apps.common.images import encode_png
from apps.face_synthesis import grids

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), "uint8")


def test_images_lie_side_by_side():
    grid = grids.tile(PIXELS, 3)
    assert grid.shape == (8, 18, 3)
    np.testing.assert_array_equal(grid[:4, 6:12], PIXELS[1])
    np.testing.assert_array_equal(grid[4:, 6:12], PIXELS[4])
    assert (grid[4:, 12:] == 255).all()


def test_files_are_decoded_and_enlarged():
    decoded = grids.decode([encode_png(each) for each in PIXELS])
    np.testing.assert_array_equal(decoded, PIXELS)
    large = grids.enlarge(PIXELS[0], 3)
    np.testing.assert_array_equal(large[1::3, 2::3], PIXELS[0])


@pytest.mark.parametrize("name", ["a.gif", "b.WEBP"])
def test_animations_have_all_frames(name, tmp_path):
    path = tmp_path / "deep" / name
    grids.check_animation(path)
    grids.write_animation(PIXELS, path)
    with Image.open(path) as image:
        assert image.n_frames == 5
        assert image.size == (6, 4)
        assert image.info["loop"] == 0


def test_other_animations_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"a.mp4 must end in .gif or .webp"):
        grids.check_animation(tmp_path / "a.mp4")
