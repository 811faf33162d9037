"""Sentiment analysis on small problems, beside the baseline.

    python -m benchmarks.small_texts
    python -m benchmarks.small_texts --quick
    python -m benchmarks.small_texts --word-vectors glove.6B.100d.txt

Every problem is trained by `train` with the settings for own data, and scored by
`evaluate` on texts of the same kind. The baseline is the one that these commands print:
TF-IDF with a linear SVM on the same training texts. Of 200 texts there are four random
samples, and the mean is printed. Problems whose data is missing are skipped. Without
flags it takes about 20 minutes on two cores.
"""

import argparse
import csv
import os
import random
import re
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np

from apps.common.errors import BadInput
from apps.common.text import read_lines, read_table
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.embedded import sentences
from apps.sentiment_analysis.evaluate import evaluate
from apps.sentiment_analysis.train import train
from benchmarks.measure import quiet

DATA = Path("data")
SEED = 0
# Scores of few texts depend on which they are.
FEW, SAMPLES_OF_FEW = 500, 4


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
    "tweets, 3 classes": (tweets, (200, 600, 2000, 6000), 4000),
    "tweets, 2 classes": (polar_tweets, (200, 600, 2000, 6000), 4000),
    "speeches, 4 speakers": (speeches, (200, 520), 200),
    "captions, man or woman": (people, (200, 600, 2000), 2000),
    "captions, 2 data sets": (sources, (200, 600, 2000), 2000),
    "sentences, 3 classes": (sentences, (200, 600, 2000), 750),
}


def write_problem(folder, rows, num_train, num_test, sample):
    """Writes a folder of two tables, always with the same texts for testing."""
    rows = sorted({(" ".join(text.split()), label) for text, label in rows})
    random.Random(SEED).shuffle(rows)
    train = random.Random(sample).sample(rows[num_test:], num_train)
    splits = {"test": rows[:num_test], "train": train}
    for split, texts in splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *texts])


def measure(rows, num_train, num_test, sample, settings):
    """Returns the macro recall of the baseline and of the trained model, in percent."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        data, run = Path(folder, "data"), Path(folder, "run")
        data.mkdir()
        write_problem(data, rows, num_train, num_test, sample)
        train(Config(str(data), seed=SEED, **settings), run)
        report = evaluate(str(run))
    return 100 * report["baseline"]["macro_recall"], 100 * report["macro_recall"]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="at most 600 texts")
    parser.add_argument("--word-vectors", nargs="+", default=(), metavar="FILE")
    arguments = parser.parse_args()
    settings = {"word_vectors": tuple(arguments.word_vectors)}

    print(f"{'macro recall, %':24} texts  baseline   ours  difference")
    results = []
    for name, (load_rows, sizes, num_test) in PROBLEMS.items():
        try:
            rows = load_rows()
        except (OSError, BadInput) as error:
            print(f"{name:24} skipped: {error}")
            continue
        for size in sizes:
            if arguments.quick and size > 600:
                continue
            num_samples = SAMPLES_OF_FEW if size < FEW else 1
            baseline, ours = np.mean(
                [
                    measure(rows, size, num_test, sample, settings)
                    for sample in range(num_samples)
                ],
                axis=0,
            )
            results.append((baseline, ours))
            print(
                f"{name:24} {size:5}  {baseline:8.1f}  {ours:5.1f}  "
                f"{ours - baseline:+10.1f}",
                flush=True,
            )
    if results:
        baseline, ours = np.mean(results, axis=0)
        print(
            f"{'mean':24}        {baseline:7.1f}  {ours:5.1f}  {ours - baseline:+10.1f}"
        )


if __name__ == "__main__":
    main()
