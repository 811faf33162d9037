import tracemalloc

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.sentiment_analysis.word_vectors import initial_embedding, read_word_vectors

VOCABULARY = ["<pad>", "<unk>", "▁good", "▁bad", "bad", "!", "▁!", "▁new"]
WORDS = ["bad", "good", "!", "other"]
VECTORS = np.array([[1, 2], [3, -4], [5, 6], [7, 8]], "float32")


@pytest.fixture
def word_vectors(tmp_path):
    np.savez(tmp_path / "words.npz", words=np.array(WORDS), vectors=VECTORS)
    lines = [
        f"{word} {' '.join(map(str, row))}"
        for word, row in zip(WORDS, VECTORS, strict=True)
    ]
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["words.npz", "words.txt"])
def test_whole_words_start_from_their_vectors(name, word_vectors):
    path = str(word_vectors / name)
    embedding, known = initial_embedding(VOCABULARY, 5, (path,), seed=3)
    random, none = initial_embedding(VOCABULARY, 5, (), seed=3)
    assert (embedding.shape, embedding.dtype) == ((8, 5), "float32")
    assert (known, none) == (4, 0)
    scaled = VECTORS * (0.3 / VECTORS.std())
    rows = {"▁good": 1, "▁bad": 0, "!": 2, "▁!": 2}
    for token, row in zip(VOCABULARY, embedding, strict=True):
        if token in rows:
            np.testing.assert_allclose(row[:2], scaled[rows[token]], rtol=1e-5)
    # Other tokens, and dimensions that the vectors do not fill, are random.
    for i, token in enumerate(VOCABULARY):
        start = 2 if token in rows else 0
        np.testing.assert_array_equal(embedding[i, start:], random[i, start:])
    assert 0.05 < random.std() < 0.15
    other, _ = initial_embedding(VOCABULARY, 5, (), seed=4)
    assert (other != random).all()


def test_vectors_of_several_files_are_concatenated(word_vectors):
    np.savez(
        word_vectors / "more.npz",
        words=np.array(["new", "good"]),
        vectors=np.array([[1, -1, 0], [2, 0, -2]], "float32"),
    )
    paths = tuple(str(word_vectors / name) for name in ("words.npz", "more.npz"))
    embedding, known = initial_embedding(VOCABULARY, 6, paths, seed=0)
    assert known == 5
    good = embedding[VOCABULARY.index("▁good")]
    np.testing.assert_allclose(good[:2] / good[0], [1, -4 / 3], rtol=1e-5)
    np.testing.assert_allclose(good[2:5] / good[2], [1, 0, -1], atol=1e-6)
    new = embedding[VOCABULARY.index("▁new")]
    np.testing.assert_allclose(new[2:5] / new[2], [1, -1, 0], atol=1e-6)
    with pytest.raises(BadInput, match=r"--embedding-size 4 .*more\.npz take 5"):
        initial_embedding(VOCABULARY, 4, paths, seed=0)


def test_words_may_look_like_line_ends(tmp_path):
    """GloVe's Twitter vectors have such words."""
    path = tmp_path / "words.txt"
    path.write_text("good 1 2\n\x85 3 4\n\u2028 5 6\nnew 7 8\n", "utf-8", newline="\n")
    assert initial_embedding(VOCABULARY, 2, (str(path),), seed=0)[1] == 2


def test_text_files_are_read_with_little_memory(tmp_path):
    numbers = " ".join(["0.5", "-0.25"] * 50)
    lines = [f"word{i} {numbers}\n" for i in range(2000)]
    (tmp_path / "words.txt").write_text("".join(lines), "utf-8")
    tracemalloc.start()
    words, vectors = read_word_vectors(tmp_path / "words.txt")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(words), vectors.shape, vectors.dtype) == (2000, (2000, 100), "float32")
    assert peak < 3 * vectors.nbytes


def pack(**arrays):
    def write(path):
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write


def cut(path):
    pack(words=np.array(WORDS), vectors=VECTORS)(path)
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    pack(words=np.array(WORDS), vectors=np.zeros((4, 50)))(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def single_array(path):
    with path.open("wb") as file:
        np.save(file, VECTORS)


BROKEN = {
    "junk": ("a.npz", lambda path: path.write_bytes(b"junk")),
    "empty": ("a.npz", lambda path: path.touch()),
    "cut": ("a.npz", cut),
    "flipped": ("a.npz", flip),
    "single array": ("a.npz", single_array),
    "other names": ("a.npz", pack(names=np.array(WORDS), vectors=VECTORS)),
    "one dimension": ("a.npz", pack(words=np.array(["good"]), vectors=np.arange(3.0))),
    "too few": ("a.npz", pack(words=np.array(WORDS), vectors=VECTORS[:2])),
    "objects": ("a.npz", pack(words=np.array(WORDS, object), vectors=VECTORS)),
    "empty text": ("a.txt", lambda path: path.touch()),
    "only words": ("a.txt", lambda path: path.write_text("good\nbad\n")),
    "prose": ("a.txt", lambda path: path.write_text("this is not one\n")),
    "uneven": ("a.txt", lambda path: path.write_text("good 1 2\nbad 3\n")),
    "binary": ("a.txt", lambda path: path.write_bytes(b"\xff\xfe\x00\x01")),
    "folder": ("a.txt", lambda path: path.mkdir()),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_without_word_vectors_are_refused(case, tmp_path):
    name, write = BROKEN[case]
    write(tmp_path / name)
    with pytest.raises(
        BadInput, match=rf"--word-vectors .*{name} is not a file of word"
    ):
        initial_embedding(VOCABULARY, 9, (str(tmp_path / name),), seed=0)


def test_vectors_of_half_precision_do_not_overflow(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2000, 100)).astype("float16")
    words = np.array([f"word{i}" for i in range(2000)])
    np.savez(tmp_path / "half.npz", words=words, vectors=vectors)
    _, read = read_word_vectors(tmp_path / "half.npz")
    assert read.dtype == "float32"
    np.testing.assert_array_equal(read, vectors)
