"""Scores a segmenter on images that it has not seen."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from apps.common import figures, runs
from apps.common.errors import BadInput
from apps.common.predictors import data_settings, in_batches
from apps.semantic_segmentation.config import Config, class_color, class_name
from apps.semantic_segmentation.data import decode_mask, load_split
from apps.semantic_segmentation.metrics import Agreement, class_iou, confusion_matrix
from apps.semantic_segmentation.signatures import BATCH_SIZE, load_model


@dataclass(frozen=True)
class Scores:
    """The masks that a model predicted, and their agreement with the labels.

    Attributes:
        masks: The predicted masks, as PNG files of class numbers.
        agreement: Of all images together.
        image_iou: The mean IoU of each image, over the classes in its labels.
        seconds: The time for all answers.
    """

    masks: list[bytes]
    agreement: Agreement
    image_iou: np.ndarray
    seconds: float


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    crf: bool = False,
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the metrics, draws the worst images and typical ones.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used, or they do not fit.
    """
    signatures = ("serving_default", "with_crf") if crf else ("serving_default",)
    predictors = [load_model(model, signature) for signature in signatures]
    config, is_other_data, held_out = data_settings(Config, model, data)
    examples = load_split(config, split, is_other_data, held_out)
    scores = [score(predictor, examples) for predictor in predictors]
    report = summarize(scores, examples.classes)
    print_report(report)

    other_data = config.data if is_other_data else None
    folder = figures_folder or runs.evaluation_folder(
        model, "semantic_segmentation", other_data
    )
    draw(scores, examples, folder)
    print(f"figures: {folder}")
    return report


def score(predictor, examples):
    """Runs a model on every image and compares its masks with the labels.

    Args:
        predictor: A function from encoded images to `mask_bytes` and `classes`.
        examples: `data.Examples`.

    Returns:
        `Scores`.

    Raises:
        BadInput: The model has other classes than the data.
    """
    seconds = []

    def timed_predictor(encoded_images):
        start = time.perf_counter()
        answers = predictor(encoded_images)
        seconds.append(time.perf_counter() - start)
        return answers

    encoded_images = map(examples.image_bytes, range(len(examples)))
    progress = tqdm(encoded_images, total=len(examples), unit="image", disable=None)
    first_batch = range(min(BATCH_SIZE, len(examples)))
    predictor([examples.image_bytes(i) for i in first_batch])  # Traces the graph.
    answers = in_batches(timed_predictor, progress, BATCH_SIZE)
    check_classes(answers["classes"], examples.classes)

    num_classes = len(examples.classes)
    agreement = Agreement(num_classes)
    image_iou = []
    for i, mask_bytes in enumerate(answers["mask_bytes"]):
        mask, prediction = examples.mask(i), decode_mask(mask_bytes)
        agreement.add(mask, prediction)
        confusion = confusion_matrix(mask, prediction, num_classes)
        is_labelled = confusion.any(axis=1)
        iou = class_iou(confusion)[is_labelled]
        image_iou.append(iou.mean() if is_labelled.any() else 1.0)
    masks = list(answers["mask_bytes"])
    return Scores(masks, agreement, np.array(image_iou), sum(seconds))


def check_classes(answered, classes):
    """Checks that a model has the classes of the data.

    Args:
        answered: The `classes` of its answers, `(images, classes)`.
        classes: As in `Config.classes`.

    Raises:
        BadInput: It has others.
    """
    names = [class_name(entry).encode() for entry in classes]
    known = [set(column) - {b""} for column in answered.T]
    if len(known) != len(names):
        problem = f"the model knows {len(known)}"
    elif any(found - {name} for found, name in zip(known, names, strict=True)):
        problem = "the model knows others"
    else:
        return
    raise BadInput(
        f"the data has the {len(names)} classes {b', '.join(names).decode()}, but "
        f"{problem}; evaluate on the classes it was trained on"
    )


def summarize(scores, classes):
    """Returns the metrics as plain numbers, by name; those with the CRF end in `_crf`.

    Args:
        scores: The `Scores` without the CRF, and optionally those with it.
        classes: As in `Config.classes`.
    """
    plain, *refined = scores
    num_pixels = plain.agreement.confusion.sum(axis=1)
    report = {
        **plain.agreement.summary(),
        "examples": len(plain.masks),
        "seconds": round(plain.seconds, 2),
        "classes": {
            class_name(entry): {"pixel_fraction": float(fraction)}
            for entry, fraction in zip(
                classes, num_pixels / num_pixels.sum(), strict=True
            )
        },
    }
    for each in refined:
        for name, value in each.agreement.summary().items():
            report[f"{name}_crf"] = value
        extra_seconds = (each.seconds - plain.seconds) / len(plain.masks)
        report["crf_milliseconds"] = round(1000 * extra_seconds, 1)
    for name, each in zip(("iou", "iou_crf"), scores, strict=False):
        iou = class_iou(each.agreement.confusion)
        for row, value in zip(report["classes"].values(), iou, strict=True):
            row[name] = float(value) if np.isfinite(value) else None
    return report


def print_report(report):
    """Prints the metrics as tables."""
    has_crf = "mean_iou_crf" in report
    headings = {"iou": "IoU", "iou_crf": "with CRF"} if has_crf else {"iou": "IoU"}
    width = max(len(name) for name in ["class", *report["classes"]])
    columns = "".join(f"{heading:>9}" for heading in headings.values())
    print(f"{'class':{width}}  {columns}  pixels")
    for name, row in report["classes"].items():
        values = [row[column] for column in headings]
        columns = "".join("        –" if v is None else f"{v:9.3f}" for v in values)
        print(f"{name:{width}}  {columns}  {row['pixel_fraction']:6.1%}")
    for name in ("mean_iou", "pixel_accuracy", "boundary_score"):
        line = f"{name.replace('_', ' ').replace('iou', 'IoU'):15} {report[name]:.4f}"
        if has_crf:
            line += f"  with CRF {report[f'{name}_crf']:.4f}"
        print(line)
    milliseconds = 1000 * report["seconds"] / report["examples"]
    line = f"{report['examples']} images, {milliseconds:.0f} ms each"
    if has_crf:
        line += f"; the CRF takes {report['crf_milliseconds']:.0f} ms more"
    print(line)


def draw(scores, examples, folder, num_images=4):
    """Draws the worst images and typical ones: image, labels, predicted masks."""
    order = np.argsort(scores[0].image_iou)
    middle = max(0, len(order) // 2 - num_images // 2)
    chosen = {
        "worst": order[:num_images],
        "typical": order[middle : middle + num_images],
    }
    colors = figures.class_colors([class_color(each) for each in examples.classes])
    titles = ["image", "labels", "prediction", "with CRF"][: 2 + len(scores)]
    legend = list(zip(map(class_name, examples.classes), colors, strict=True))
    for name, indices in chosen.items():
        rows = []
        for i in indices:
            image = examples.image_bytes(i)
            predictions = [decode_mask(each.masks[i]) for each in scores]
            masks = [examples.mask(i), *predictions]
            overlays = [figures.overlay(image, mask, colors) for mask in masks]
            text = f"{examples.names[i]}\nIoU {scores[0].image_iou[i]:.2f}"
            rows.append((text, [figures.thumbnail(image), *overlays]))
        figures.draw_rows(rows, folder / f"{name}.png", titles, legend)
