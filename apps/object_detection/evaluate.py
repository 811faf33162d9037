"""Scores a detector on images that it has not seen."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from apps.common import baselines, figures, runs
from apps.common.errors import BadInput
from apps.common.predictors import about, data_settings
from apps.object_detection import metrics
from apps.object_detection.config import Config
from apps.object_detection.data import load_split
from apps.object_detection.signatures import BATCH_SIZE, load_model, read_confidence


@dataclass(frozen=True)
class Scores:
    """The boxes that a model detected, and their agreement with the labels.

    Attributes:
        answers: The answers to all images, as a predictor returns them.
        evaluation: From `metrics.evaluate_boxes`.
        seconds: The time for all answers.
    """

    answers: dict[str, np.ndarray]
    evaluation: COCOeval
    seconds: float


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    confidence: float | None = None,
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the metrics, draws curves, the confusion matrix and images with boxes.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used, or they do not fit.
    """
    predictor = load_model(model)
    config, is_other_data, held_out = data_settings(Config, model, data)
    examples = load_split(config, split, is_other_data, held_out)
    check_classes(about(model), examples.classes)
    if confidence is None:
        confidence = read_confidence(model)
    scores = score(predictor, examples)
    report = summarize(scores, examples, confidence)
    report["baseline"] = baselines.beside(model, split, is_other_data)
    print_report(report)

    other_data = config.data if is_other_data else None
    folder = figures_folder or runs.evaluation_folder(
        model, "object_detection", other_data
    )
    draw(scores, examples, confidence, folder)
    print(f"figures: {folder}")
    return report


def check_classes(description, classes):
    """Checks that a model knows the classes of the data.

    Classes that only the model knows are printed.

    Args:
        description: What the model records of itself, from `predictors.about`.
        classes: The names of the classes of the data.

    Raises:
        BadInput: It does not know one of them.
    """
    if description is None:
        return
    known = description["classes"]
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise BadInput(
            f"the data has the class {unknown[0]}, but the model knows only "
            f"{', '.join(known)}; evaluate on the classes it was trained on"
        )
    others = [name for name in known if name not in classes]
    if others:
        print(
            f"boxes of {', '.join(others)} are not scored: the data has no such class"
        )


def score(predictor, examples):
    """Runs a model on every image and compares its boxes with the labels.

    Args:
        predictor: A function from encoded images to `boxes`, `classes`, `scores` and
            `num_detections`.
        examples: `data.Examples`.

    Returns:
        `Scores`.

    Raises:
        BadInput: No image has a labelled box.
    """
    if all(each.all() for each in map(np.asarray, examples.is_crowd)):
        raise BadInput(
            f"none of the {len(examples)} images has a labelled box, so there is "
            "nothing to compare with; evaluate on images that have some"
        )
    seconds = []

    def timed_predictor(encoded_images):
        start = time.perf_counter()
        answers = predictor(encoded_images)
        seconds.append(time.perf_counter() - start)
        progress.update(len(encoded_images))
        return answers

    first_batch = range(min(BATCH_SIZE, len(examples)))
    predictor([examples.image_bytes(i) for i in first_batch])  # Traces the graph.
    with tqdm(total=len(examples), unit="image", disable=None) as progress:
        answers = metrics.detect(timed_predictor, examples, BATCH_SIZE)
    evaluation = metrics.evaluate_boxes(examples, answers)
    return Scores(answers, evaluation, sum(seconds))


def summarize(scores, examples, confidence):
    """Returns the metrics as plain numbers, by name.

    Args:
        scores: `Scores`.
        examples: `data.Examples`.
        confidence: The score at which precision and recall are counted.
    """
    matches = metrics.class_matches(scores.evaluation)
    intervals = metrics.bootstrap(scores.evaluation)
    return {
        **metrics.summarize(scores.evaluation),
        **{f"{name}_interval": interval for name, interval in intervals.items()},
        "images": len(examples),
        "seconds": round(scores.seconds, 2),
        "confidence": confidence,
        "classes": {
            name: {
                "boxes": int(matches[i].num_labelled.sum()),
                **metrics.summarize_class(scores.evaluation, i),
                **_precision_and_recall(matches[i], confidence),
            }
            for i, name in enumerate(examples.classes)
        },
    }


def _precision_and_recall(matches, confidence):
    precision, recall = metrics.precision_and_recall(matches, confidence)
    return {"precision": precision, "recall": recall}


def print_report(report):
    """Prints the metrics as tables."""
    columns = {"ap": "AP", "ap50": "AP50", "precision": "precision", "recall": "recall"}
    width = max(len(name) for name in ["class", *report["classes"]])
    headings = "".join(f"{heading:>10}" for heading in columns.values())
    print(f"{'class':{width}}  {headings}  boxes")
    for name, row in report["classes"].items():
        values = "".join(f"{_number(row[column]):>10}" for column in columns)
        print(f"{name:{width}}  {values}  {row['boxes']:5}")
    print(f"precision and recall of boxes with scores from {report['confidence']:g}")
    for name, words in (("map", "mAP"), ("ap50", "AP50")):
        low, high = report[f"{name}_interval"]
        print(f"{words:5}{report[name]:.4f}  95 % interval {low:.3f} to {high:.3f}")
    print(f"AP75 {report['ap75']:.4f}")
    areas = {"small": "below 32²", "medium": "32² to 96²", "large": "above 96²"}
    by_area = [
        f"{_number(report[f'map_{name}'])} {name} ({pixels} pixels)"
        for name, pixels in areas.items()
    ]
    print(f"mAP by area of the boxes: {', '.join(by_area)}")
    if baseline := report["baseline"]:
        values = f"mAP {baseline['map']:.4f}, AP50 {baseline['ap50']:.4f}"
        print(f"baseline {values} ({baseline['name']})")
    speed = report["images"] / report["seconds"] if report["seconds"] else float("inf")
    print(f"{report['images']} images, {speed:.1f} a second")


def _number(value):
    return "–" if value is None else f"{value:.3f}"


def draw(scores, examples, confidence, folder, num_images=6):
    """Draws curves, the confusion matrix, the worst images and typical ones."""
    precision = scores.evaluation.eval["precision"][0, :, :, 0, 0]
    figures.draw_precision_recall(
        metrics.RECALLS,
        {
            name: precision[:, i]
            for i, name in enumerate(examples.classes)
            if precision[0, i] > -1
        },
        folder / "precision_recall.png",
    )
    pairs = metrics.pair_boxes(examples, scores.answers, confidence)
    labels, predictions = np.concatenate(pairs, axis=1)
    figures.draw_confusion_matrix(
        labels,
        predictions,
        [*examples.classes, "background"],
        folder / "confusion_matrix.png",
    )
    # The fraction of the labelled and detected boxes of each image that agree.
    agreement = [np.mean(one == other) if len(one) else 1 for one, other in pairs]
    order = np.argsort(agreement, kind="stable")
    middle = max(0, len(order) // 2 - num_images // 2)
    chosen = {
        "worst": order[:num_images],
        "typical": order[middle : middle + num_images],
    }
    colors = figures.class_colors([None] * len(examples.classes))
    for name, indices in chosen.items():
        panels = []
        for i in indices:
            found = metrics.detections(scores.answers, i, examples.classes)
            panels += draw_sides(examples, i, found, confidence, colors)
        figures.draw_boxes(panels, folder / f"{name}.png", columns=2)


def draw_sides(examples, index, found, confidence, colors):
    """Returns two `figures.Boxes`: an image with its labels, and with its detections.

    Args:
        examples: `data.Examples`.
        index: The position of the image.
        found: Its `metrics.Detections`.
        confidence: Boxes with lower scores are not drawn.
        colors: The colour of each class.
    """
    image = examples.image_bytes(index)
    numbers, crowd = examples.box_classes[index], examples.is_crowd[index]
    names = [examples.classes[number] for number in numbers]
    texts = [
        f"{name}, ignored" if is_crowd else name
        for name, is_crowd in zip(names, crowd, strict=True)
    ]
    is_drawn = found.scores >= confidence
    found = metrics.Detections(*(each[is_drawn] for each in found))
    labels = figures.Boxes(
        f"{examples.names[index]}, labels",
        image,
        examples.boxes[index],
        texts,
        colors[numbers],
    )
    detected = figures.Boxes(
        "detected",
        image,
        found.boxes,
        [
            f"{examples.classes[number]} {value:.2f}"
            for number, value in zip(found.classes, found.scores, strict=True)
        ],
        colors[found.classes],
    )
    return labels, detected
