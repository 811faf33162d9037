"""python -m apps.object_detection {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from apps.common import cli
from apps.common.ranges import Fraction
from apps.object_detection.config import CONFIGS, Config

Variant = Literal["float32", "dynamic_range", "int8"]
Confidence = Annotated[
    Fraction | None,
    arg(
        help="Lowest score of a box that counts, from 0 to 1. Defaults to the one with "
        "the best F1 on validation, which the model records."
    ),
]


def evaluate(
    model: cli.Model,
    data: cli.Data = None,
    split: cli.Split = "test",
    confidence: Confidence = None,
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: COCO's mAP, AP50 and AP75, by class and by area.

    The average precision does not depend on the confidence; precision, recall, the
    confusion matrix and the drawn boxes do.
    """
    from apps.object_detection.evaluate import evaluate

    report = evaluate(model, data, split, confidence, figures)
    if json:
        cli.print_json(report)


def predict(
    inputs: Positional[tuple[Path, ...]] = (),
    *,
    model: cli.Model,
    confidence: Confidence = None,
    json: Path | None = None,
    figure: cli.Figure = Path("runs/object_detection/predictions.png"),
):
    """Detect objects in images; they are counted and their boxes are drawn.

    Args:
        inputs: Image files, JPEG, PNG, BMP or GIF of any size, and folders of images.
            Defaults to a few test images of the data that the model was trained on.
        json: File for all boxes, whatever their scores, in COCO's format of results.
    """
    from apps.object_detection.predict import predict

    predict(inputs, model, confidence, json, figure)


def export(
    run: cli.Run,
    to: cli.To = None,
    variants: tuple[Variant, ...] = (),
    replace: cli.Replace = False,
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        variants: TensorFlow Lite variants for the edge bundle. Defaults to all that the
            model has: Faster R-CNN has no int8.
    """
    from apps.object_detection.export import export

    return export(run, to or run / "export", variants, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, evaluate, predict, export)
