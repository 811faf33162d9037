import dataclasses

import numpy as np
import pytest

from apps.sentiment_analysis.config import sentences
from apps.sentiment_analysis.export import export
from apps.sentiment_analysis.train import train

SAID = {
    "complaint": ("The lamp is broken", "This #LampFails 😡", 'It says "error" again'),
    "praise": ("I love this lamp", "SOOOO beautiful 😍", "My @friend wants one, too"),
    "question": ("How do I switch it on?", "When will it arrive?", "Is it 5 &amp; 9?"),
}


def write_table(path, number=12, encoding="utf-8"):
    """Writes what customers said: so many texts of each of three classes."""
    random = np.random.default_rng(0)
    rows = ["when\ttext\tlabel"]
    for i in range(number):
        for label, texts in SAID.items():
            order = random.permutation(len(texts))[:2]
            text = " ".join(texts[j] for j in order)
            rows.append(f"{i}\t{text} (order {i})\t{label}")
    path.write_text("\n".join(rows) + "\n", encoding)
    return path


@pytest.fixture(scope="session")
def own_table(tmp_path_factory):
    """A table as people have it: 3 classes × 12 short texts."""
    return write_table(tmp_path_factory.mktemp("data") / "customers.tsv")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A training on the built-in sentences."""
    config = dataclasses.replace(sentences(), epochs=7)
    directory = tmp_path_factory.mktemp("runs") / "sentences"
    train(config, directory)
    return directory


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The directory of the exported model."""
    directory = tmp_path_factory.mktemp("saved_models") / "sentiment_analysis"
    export(run, directory)
    return directory
