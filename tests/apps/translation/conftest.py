import numpy as np
import pytest
from num2words import num2words

from apps.translation.config import Config
from apps.translation.export import export
from apps.translation.train import train


def make_pairs(number, seed=0):
    """German numbers below 1000 and English ones, whose order is another."""
    chosen = np.random.default_rng(seed).permutation(1000)[:number]
    return [(num2words(int(n), lang="de"), num2words(int(n))) for n in chosen]


def write_table(path, number=600, columns=("source", "target"), seed=0):
    """Writes pairs as people have them, with a column that nobody asked for."""
    separator = "," if ".csv" in path.name else "\t"
    rows = [("number", *columns)]
    rows += [(str(i), *pair) for i, pair in enumerate(make_pairs(number, seed))]
    path.write_text("\n".join(map(separator.join, rows)) + "\n", "utf-8")
    return path


# So small and so quick that a training takes seconds.
SMALL = {
    "vocabulary_size": 100,
    "validation_fraction": 0.1,
    "subword_sampling": 0.0,
    "max_tokens": 50,
    "embedding_size": 48,
    "encoder_units": 32,
    "decoder_units": 64,
    "attention_units": 48,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
    "epochs": 10,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "label_smoothing": 0.0,
    "beam_size": 3,
}


@pytest.fixture(scope="session")
def pairs_table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("data") / "numbers.tsv")


@pytest.fixture(scope="session")
def config(pairs_table):
    return Config(str(pairs_table), **SMALL)


@pytest.fixture(scope="session")
def run(config, tmp_path_factory):
    """A training that learns most of it."""
    directory = tmp_path_factory.mktemp("runs") / "numbers"
    train(config, directory)
    return directory


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The directory of the exported model."""
    directory = tmp_path_factory.mktemp("saved_models") / "translation"
    export(run, directory)
    return directory
