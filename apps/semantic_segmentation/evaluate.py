"""Scores a model, whatever it is, on images it has not seen."""

import json as json_module
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from apps.common import pictures, runs
from apps.common.datasets import is_same
from apps.common.errors import BadInput
from apps.common.predictors import in_batches, training_config
from apps.semantic_segmentation.config import CONFIGS, Config, class_color, class_name
from apps.semantic_segmentation.data import VOID, decode_mask, load_split
from apps.semantic_segmentation.metrics import Agreement
from apps.semantic_segmentation.model import BATCH, load_model


@dataclass(frozen=True)
class Scores:
    """What a model answered, and how well that agrees with the right masks.

    Attributes:
        answers: A PNG file of class numbers for each image.
        agreement: Of all images together.
        image_iou: Mean IoU of each image alone, over the classes it shows.
        seconds: Time to answer all images.
    """

    answers: list[bytes]
    agreement: Agreement
    image_iou: np.ndarray
    seconds: float


def evaluate(
    model, data=None, split="test", crf=False, json=False, pictures_folder=None
):
    """Prints mean IoU, pixel accuracy, boundary score, and the IoU of each class.

    Draws the images on which the model does worst, and typical ones.

    Args:
        model: Where the model is, as `predictors.load_predictor` takes it.
        data: As in `Config.data`. Defaults to what the model was trained on.
        split: `train`, `validation`, `test` or `all`.
        crf: Whether to score the model's masks refined by its CRF too.
        json: Whether to print one JSON object as the last line.
        pictures_folder: Where to draw. Defaults to `evaluation` in a run directory,
            and to `runs/semantic_segmentation/evaluation` for other models.

    Returns:
        The metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used, or they do not fit.
    """
    signatures = ("serving_default", "with_crf") if crf else ("serving_default",)
    predictors = [load_model(model, signature) for signature in signatures]
    config = training_config(Config, model, data)
    data = data and str(Path(data))
    if data and not is_same(data, config.data):
        published = {preset().data: preset() for preset in CONFIGS.values()}
        named = (Path(data) / "classes.txt").exists()
        foreign = replace(
            config, data=data, held_out=None, classes=() if named else config.classes
        )
        config = published.get(data, foreign)
    examples, classes = load_split(config, split)
    scores = [score(predictor, examples, classes) for predictor in predictors]
    report = summarize(scores, classes)
    print_report(report)

    folder = pictures_folder or runs.evaluation_folder(model, "semantic_segmentation")
    draw(scores, examples, classes, folder)
    print(f"pictures: {folder}")
    if json:
        print(json_module.dumps(report, ensure_ascii=False))
    return report


def score(predictor, examples, classes):
    """Asks the model about every image.

    Args:
        predictor: A function from encoded images to `mask_bytes`, `classes` and
            `shares`.
        examples: `data.Examples`.
        classes: The classes that the right masks have, as in `Config.classes`.

    Raises:
        BadInput: The model has other classes than the data.
    """
    seconds = []

    def timed(encoded_images):
        start = time.perf_counter()
        answers = predictor(encoded_images)
        seconds.append(time.perf_counter() - start)
        return answers

    first = range(min(BATCH, len(examples)))
    predictor([examples.image_bytes(i) for i in first])  # The first call traces.
    encoded_images = map(examples.image_bytes, range(len(examples)))
    progress = tqdm(encoded_images, total=len(examples), unit="image")
    answers = in_batches(timed, progress, BATCH)

    names = [class_name(line).encode() for line in classes]
    known = [set(column) - {b""} for column in answers["classes"].T]
    if len(known) != len(names) or any(
        answered - {name} for answered, name in zip(known, names, strict=True)
    ):
        raise BadInput(
            f"the data has the {len(names)} classes {b', '.join(names).decode()}, but "
            f"the model knows {len(known)}, not all of the same names; evaluate on the "
            "classes it was trained on"
        )
    total = Agreement(len(classes), VOID)
    image_iou = []
    for i, answer in enumerate(answers["mask_bytes"]):
        mask, answered = examples.mask(i), decode_mask(answer)
        total.add(mask, answered)
        alone = Agreement(len(classes), VOID)
        alone.everywhere.update_state(mask, answered)
        shown = np.unique(mask[mask != VOID])
        image_iou.append(alone.class_iou[shown].mean() if len(shown) else 1.0)
    return Scores(list(answers["mask_bytes"]), total, np.array(image_iou), sum(seconds))


def summarize(scores, classes):
    """Returns the metrics as plain numbers, by name; those with CRF end in `_crf`.

    Args:
        scores: The `Scores` without the CRF, and optionally those with it.
        classes: The classes, as in `Config.classes`.
    """
    plain = scores[0]
    counts = plain.agreement.everywhere.total_cm.numpy().sum(axis=1)
    report = {
        **plain.agreement.summary(),
        "examples": len(plain.answers),
        "seconds": round(plain.seconds, 2),
        "classes": {
            class_name(line): {
                "iou": float(iou) if np.isfinite(iou) else None,
                "share": float(count / counts.sum()),
            }
            for line, iou, count in zip(
                classes, plain.agreement.class_iou, counts, strict=True
            )
        },
    }
    if len(scores) > 1:
        refined = scores[1]
        for name, value in refined.agreement.summary().items():
            report[f"{name}_crf"] = value
        extra = (refined.seconds - plain.seconds) / len(plain.answers)
        report["crf_milliseconds"] = round(1000 * extra, 1)
        for line, iou in zip(classes, refined.agreement.class_iou, strict=True):
            row = report["classes"][class_name(line)]
            row["iou_crf"] = float(iou) if np.isfinite(iou) else None
    return report


def print_report(report):
    """Prints the metrics as tables."""
    columns = ["iou", "iou_crf"] if "mean_iou_crf" in report else ["iou"]
    width = max(len(name) for name in ["class", *report["classes"]])
    heads = {"iou": "IoU", "iou_crf": "with CRF"}
    print(
        f"{'class':{width}}  " + "".join(f"{heads[c]:>9}" for c in columns) + "  share"
    )
    for name, row in report["classes"].items():
        values = "".join(
            f"{'–' if row[column] is None else format(row[column], '.3f'):>9}"
            for column in columns
        )
        print(f"{name:{width}}  {values}  {row['share']:.4f}")
    for name in ("mean_iou", "pixel_accuracy", "boundary_score"):
        line = f"{name.replace('_', ' ').replace('iou', 'IoU'):15} {report[name]:.4f}"
        if f"{name}_crf" in report:
            line += f"  with CRF {report[f'{name}_crf']:.4f}"
        print(line)
    rate = 1000 * report["seconds"] / report["examples"]
    line = f"{report['examples']} images, {rate:.0f} ms each"
    if "crf_milliseconds" in report:
        line += f"; the CRF takes {report['crf_milliseconds']:.0f} ms more"
    print(line)


def draw(scores, examples, classes, folder, number=4):
    """Draws the worst and the typical images: photograph, right mask, answers."""
    order = np.argsort(scores[0].image_iou)
    middle = max(0, len(order) // 2 - number // 2)
    chosen = {
        "worst": order[:number],
        "typical": order[middle : middle + number],
    }
    colors = pictures.class_colors([class_color(line) for line in classes])
    titles = ["image", "right", "answer", "with CRF"][: 2 + len(scores)]
    legend = list(zip(map(class_name, classes), colors, strict=True))
    for name, indices in chosen.items():
        rows = []
        for i in indices:
            image = examples.image_bytes(i)
            masks = [examples.mask(i), *(decode_mask(s.answers[i]) for s in scores)]
            drawn = [pictures.overlay(image, mask, colors) for mask in masks]
            text = f"{examples.names[i]}\nIoU {scores[0].image_iou[i]:.2f}"
            rows.append((text, [pictures.thumbnail(image), *drawn]))
        pictures.draw_rows(rows, folder / f"{name}.png", titles, legend)
