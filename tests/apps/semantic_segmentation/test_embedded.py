import io

import numpy as np
from PIL import Image

from apps.semantic_segmentation.embedded import CLASSES, scenes


def decode(png):
    return np.array(Image.open(io.BytesIO(png)))


def test_scenes_have_exact_masks():
    drawn = scenes(num_scenes=20)
    assert {split: len(pairs) for split, pairs in drawn.items()} == {
        "train": 16,
        "test": 4,
    }
    seen = set()
    for scene, mask in (map(decode, pair) for pair in drawn["train"]):
        assert scene.shape == (*mask.shape, 3) == (64, 64, 3)
        seen |= set(np.unique(mask))
        for top in (0, 32):
            for left in (0, 32):
                quarter = np.s_[top : top + 32, left : left + 32]
                ink = mask[quarter] > 0
                assert len(np.unique(mask[quarter][ink])) <= 1
                if ink.any():  # A digit has one colour, apart from the noise.
                    assert scene[quarter][ink].std(axis=0).max() < 11
                    assert 50 < ink.sum() < 700
    assert seen <= set(range(len(CLASSES)))
    assert len(seen) > 8


def test_scenes_depend_on_the_seed_alone():
    assert scenes(5, seed=3) == scenes(5, seed=3) != scenes(5, seed=4)
