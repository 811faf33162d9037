"""Sentiment analysis on small problems, beside the baseline.

    python -m benchmarks.small_texts
    python -m benchmarks.small_texts --seeds 3
    python -m benchmarks.small_texts --word-vectors glove.6B.100d.txt

Every problem is trained by `train` with the settings for own data, and scored by
`evaluate` on texts of the same kind, always the same ones. The baseline is the one that
these commands print: TF-IDF with a linear SVM on the same training texts. Each seed
draws other training texts. Problems whose data is missing are skipped. One seed takes
about 10 minutes, two cores.
"""

import argparse
import csv
import os
import random
import re
import tempfile
from functools import partial
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

from apps.common.text import read_lines, read_table
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.embedded import sentences
from apps.sentiment_analysis.evaluate import evaluate
from apps.sentiment_analysis.train import train
from benchmarks.measure import compare_with_baseline, quiet

DATA = Path("data")


def tweets():
    """Returns tweets with their sentiment, from the training file only."""
    path = DATA / "tweeteval_sentiment/train.tsv.gz"
    rows = read_table(path, {"text": "text", "label": "label_name"})
    return [row for _, row in rows]


def polar_tweets():
    """Returns the tweets that are not neutral."""
    return [(text, label) for text, label in tweets() if label != "neutral"]


def speeches():
    """Returns speeches of four characters of Shakespeare's."""
    names = ("DUKE VINCENTIO", "GLOUCESTER", "MENENIUS", "ROMEO")
    text = (DATA / "tiny_shakespeare/input.txt").read_text()
    speeches = (speech.partition(":\n") for speech in text.split("\n\n"))
    return [(text, name) for name, _, text in speeches if name in names]


def captions():
    """Returns the captions of Flickr8k."""
    lines = read_lines(DATA / "flickr8k/Flickr8k.token.txt")
    return [line.split("\t")[1].lower() for line in lines]


def people():
    """Returns captions of men or of women, without the words that say so."""
    gendered = r"\b(wo)?m[ae]n\b|\b(he|she|his|hers?|him|lady|guy)\b|\b(boy|girl)s?\b"
    classes = {text: {"man", "woman"} & set(text.split()) for text in captions()}
    return [
        (re.sub(gendered, "person", text), *found)
        for text, found in classes.items()
        if len(found) == 1
    ]


def sources():
    """Returns captions of two data sets, letters only; the class is the data set."""
    table = read_table(DATA / "multi30k/train.tsv.gz", {"text": "en"})
    texts = {"multi30k": [text.lower() for _, (text,) in table], "flickr8k": captions()}
    return [
        (re.sub("[^a-z ]", "", text), name)
        for name, captions_of_set in texts.items()
        for text in captions_of_set[:6000]
    ]


# The rows of each problem, the numbers of texts for training, and that for testing.
PROBLEMS = {
    "tweets, 3 classes": (tweets, (200, 2000, 20_000), 4000),
    "tweets, 2 classes": (polar_tweets, (200, 600, 2000, 6000), 4000),
    "speeches, 4 speakers": (speeches, (200, 520), 200),
    "captions, man or woman": (people, (200, 2000), 2000),
    "captions, 2 data sets": (sources, (200, 2000), 2000),
    "sentences, 3 classes": (sentences, (200, 2000), 750),
}


def write_problem(folder, rows, num_train, num_test, seed):
    """Writes a folder of two tables, always with the same texts for testing."""
    rows = sorted({(" ".join(text.split()), label) for text, label in rows})
    random.Random(0).shuffle(rows)
    train = random.Random(seed).sample(rows[num_test:], num_train)
    splits = {"test": rows[:num_test], "train": train}
    for split, texts in splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *texts])


def measure(settings, rows, num_train, seed, num_test):
    """Returns the macro recall of the baseline and of the trained model, in percent."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        data, run = Path(folder, "data"), Path(folder, "run")
        data.mkdir()
        write_problem(data, rows, num_train, num_test, seed)
        train(Config(str(data), seed=seed, **settings), run)
        report = evaluate(str(run))
    return 100 * report["baseline"]["macro_recall"], 100 * report["macro_recall"]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each")
    parser.add_argument("--word-vectors", nargs="+", default=(), metavar="FILE")
    arguments = parser.parse_args()
    settings = {"word_vectors": tuple(arguments.word_vectors)}
    compare_with_baseline(
        "macro recall, %", PROBLEMS, partial(measure, settings), arguments.seeds
    )


if __name__ == "__main__":
    main()
