
import pytest

from apps.common import datasets
from apps.image_captioning import data
from tests.apps.image_captioning.tiny import small

ROWS = [
    "a.png\tA black dog.",
    "a.png\ttwo dogs, one ball",
    "b.jpg\tthe sea",
    "c.png\tA child's hat",
]
CAPTIONS = {
    "a.png": ("a black dog", "two dogs one ball"),
    "b.jpg": ("the sea",),
    "c.png": ("a child's hat",),
}


def read(path, **changes):
    """Returns the captions of all examples by the names of the images."""
    examples = data.load_split(small(path, **changes), "all", is_other_data=True)
    for i, image in enumerate(examples.images):
        assert examples.image_bytes(i) == image.read_bytes()
    return dict(zip(examples.names, examples.captions, strict=True))


def sizes_of(path, **changes):
    return datasets.sizes(data.read_splits(small(path, **changes)))


# Words


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog,  jumps !", "a man's dog jumps"),
        ("The dog 's T-shirt -- 'red' (7)", "the dog 's t-shirt red 7"),
        ("it’s a Ｗide ﬁeld\n", "it’s a wide field"),
        ("İki köpek; ÄÖ", "i̇ki köpek äö"),
        ("cafe\u0301 - - -tail", "café tail"),
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया"),
        ("一只狗。", "一只狗"),
        ("?! … ❤\ufe0f \u0301", ""),
        ("", ""),
    ],
)
def test_captions_become_words(caption, words):
    assert data.clean(caption) == words
    assert data.clean(words) == words
