"""Pretrained word vectors, from which an embedding starts."""

import zipfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from apps.common.errors import BadInput

# Standard deviations of the initial embedding. Random vectors are smaller than word
# vectors, so that known words dominate at first.
WORD_VECTOR_STD = 0.3
RANDOM_STD = 0.1


def initial_embedding(
    vocabulary: Sequence[str],
    embedding_size: int,
    word_vectors: Iterable[str],
    seed: int,
) -> tuple[np.ndarray, int]:
    """Returns the initial embedding of a vocabulary.

    Tokens that are whole words start from their word vectors, all others from random
    vectors. Vectors of several files are concatenated.

    Args:
        vocabulary: The tokens, from `Tokenizer.vocabulary`.
        embedding_size: Size of a token's vector. Dimensions that the word vectors do
            not fill are random.
        word_vectors: Paths, as in `Config.word_vectors`.
        seed: Seed of the random vectors.

    Returns:
        The embedding, float32 `(tokens, embedding_size)`, and the number of tokens that
        have word vectors.

    Raises:
        BadInput: A file cannot be read, or the vectors do not fit into the embedding.
    """
    random = np.random.default_rng(seed)
    embedding = random.normal(0, RANDOM_STD, (len(vocabulary), embedding_size))
    known, start = set(), 0
    for path in word_vectors:
        words, vectors = read_word_vectors(Path(path))
        end = start + vectors.shape[1]
        if end > embedding_size:
            raise BadInput(
                f"--embedding-size {embedding_size} is too small for the word vectors; "
                f"those up to {path} take {end} dimensions"
            )
        scale = WORD_VECTOR_STD / vectors.std()
        rows = {word: row for row, word in enumerate(words)}
        for token_id, token in enumerate(vocabulary):
            word = token.removeprefix("▁")
            # Letters inside a word are not a word; punctuation may be anywhere.
            if (token.startswith("▁") or not word.isalpha()) and word in rows:
                embedding[token_id, start:end] = vectors[rows[word]] * scale
                known.add(token_id)
        start = end
    return embedding.astype("float32"), len(known)


def read_word_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    """Reads a file of word vectors.

    Args:
        path: A `.npz` file with `words` and `vectors`, or a text file in GloVe's
            format: a word and its numbers on each line.

    Returns:
        The words, and their vectors, `(words, size)`.

    Raises:
        BadInput: The file is missing or has another format.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path) as content:
                words = content["words"].tolist()
                vectors = content["vectors"].astype("float32")
        else:
            words, vectors = _read_lines(path)
        is_table = vectors.ndim == 2 and len(words) == len(vectors) and vectors.size
        if not is_table or not vectors.std() > 0:
            raise ValueError
        return words, vectors
    except FileNotFoundError as error:
        raise BadInput(
            f"--word-vectors {path} does not exist; pass a file of word vectors"
        ) from error
    except (
        *(ValueError, KeyError, TypeError, OSError, EOFError),
        zipfile.BadZipFile,
    ) as error:
        raise BadInput(
            f"--word-vectors {path} is not a file of word vectors; expected a word and "
            "its numbers on each line, or .npz with `words` and `vectors`"
        ) from error


def _read_lines(path):
    """Reads a text file of word vectors, line by line to use little memory.

    Raises:
        ValueError: A line has other numbers than a word and its vector.
    """
    words, numbers = [], array("f")
    # GloVe has words such as U+0085, which must not end a line.
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            word, *vector = line.rstrip(" \r\n").split(" ")
            words.append(word)
            numbers.extend(map(float, vector))
            if len(numbers) != len(words) * len(vector):
                raise ValueError
    return words, np.frombuffer(numbers, "float32").reshape(len(words), -1)
