"""Image classification on small problems, beside the baseline.

    python -m benchmarks.small_images
    python -m benchmarks.small_images --seeds 3

Every problem is trained by `train` with the settings for own data, and scored by
`evaluate` on other images of the same kind. The baseline is the one that these commands
print: logistic regression on the same frozen features of the same training images.
Problems whose data is missing are skipped. One seed takes about 15 minutes, two cores.
"""

import argparse
import csv
import os
import random
import tempfile
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from apps.image_classification.config import Config
from apps.image_classification.evaluate import evaluate
from apps.image_classification.train import train
from benchmarks.measure import compare_with_baseline, quiet

DATA = Path("data")
BOX = ("xmin", "ymin", "xmax", "ymax")
MAX_TEST = 50  # Images of a class for testing.


def flowers():
    """Returns photographs of five flowers, from the training folder only."""
    folders = sorted((DATA / "flowers/train").iterdir())
    return [(path, path.parent.name) for each in folders for path in each.iterdir()]


def two_flowers():
    """Returns photographs of roses and tulips."""
    return [row for row in flowers() if row[1] in ("roses", "tulips")]


def faces():
    """Returns pairs of a photograph of a face and its row in the table of labels."""
    folder = DATA / "utkface_64"
    with (folder / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    return [(folder / "images" / Path(row["file"]).name, row) for row in rows]


def genders():
    """Returns photographs of women and men."""
    return [(path, ("man", "woman")[int(row["gender"])]) for path, row in faces()]


def ages():
    """Returns photographs of people of four ages."""
    names = np.array(["child", "young", "middle-aged", "old"])
    limits = [13, 35, 60]
    return [
        (path, names[np.searchsorted(limits, int(row["age"]), side="right")])
        for path, row in faces()
    ]


def cells():
    """Returns blood cells, cut out of photographs; one of a kind from each."""
    rows = {}
    for path in sorted((DATA / "bccd/Annotations").iterdir()):
        image = DATA / "bccd/JPEGImages" / f"{path.stem}.jpg"
        for cell in ElementTree.parse(path).iter("object"):
            box = [int(cell.findtext(f"bndbox/{side}")) for side in BOX]
            if min(box[2] - box[0], box[3] - box[1]) >= 10:
                rows[image, cell.findtext("name")] = box
    return [((image, box), name) for (image, name), box in rows.items()]


def streets():
    """Returns pieces of road scenes that one class fills by more than a half."""
    names = {1: "building", 3: "road", 4: "pavement", 5: "tree", 8: "car"}
    rng = np.random.default_rng(0)
    rows = {}
    for path in sorted((DATA / "camvid/train").iterdir()):
        mask = np.array(Image.open(DATA / f"camvid/trainannot/{path.stem}.png"))
        for _ in range(60):
            height, width = rng.integers(48, 128, 2)
            top, left = rng.integers(0, np.array(mask.shape) - (height, width))
            piece = mask[top : top + height, left : left + width]
            label = np.bincount(piece.ravel()).argmax()
            if label in names and (piece == label).mean() > 0.55:
                box = (left, top, left + width, top + height)
                rows[path, names[label]] = [int(side) for side in box]
    return [((image, box), name) for (image, name), box in rows.items()]


def digits():
    """Returns scikit-learn's digits, enlarged to the size of photographs."""
    data = load_digits()
    images = (255 * data.images / 16).astype("uint8")
    return [
        (Image.fromarray(pixels).resize((96, 96)), str(label))
        for pixels, label in zip(images, data.target, strict=True)
    ]


# The images of each problem, and the numbers of images of each class for training.
PROBLEMS = {
    "2 flowers": (two_flowers, (20, 120)),
    "5 flowers": (flowers, (10, 40)),
    "2 genders, faces": (genders, (60,)),
    "4 ages, faces": (ages, (30,)),
    "3 blood cells": (cells, (15,)),
    "5 pieces of streets": (streets, (20,)),
    "10 digits": (digits, (10,)),
}


def write_problem(folder, rows, num_train, seed):
    """Writes class folders for training and for testing."""
    rows = sorted(rows, key=lambda row: str(row[0]))
    random.Random(seed).shuffle(rows)
    for name in {name for _, name in rows}:
        sources = [source for source, label in rows if label == name]
        for i, source in enumerate(sources[: num_train + MAX_TEST]):
            path = folder / ("train" if i < num_train else "test") / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, Path):
                path.symlink_to(source.resolve())
            elif isinstance(source, tuple):
                image, box = source
                Image.open(image).crop(box).save(path, quality=95)
            else:
                source.save(path, quality=95)


def measure(settings, rows, num_train, seed):
    """Returns the accuracy of the baseline and of the trained model, in percent."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        data, run = Path(folder, "data"), Path(folder, "run")
        write_problem(data, rows, num_train, seed)
        train(Config(str(data), seed=seed, **settings), run)
        report = evaluate(str(run))
    return 100 * report["baseline"]["accuracy"], 100 * report["accuracy"]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each")
    parser.add_argument("--weights", default="imagenet", help="as for `train`")
    arguments = parser.parse_args()
    settings = {"weights": arguments.weights}
    compare_with_baseline(
        "accuracy, %, images a class",
        PROBLEMS,
        partial(measure, settings),
        arguments.seeds,
    )


if __name__ == "__main__":
    main()
