"""python -m apps.image_classification {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.common.ranges import Count
from apps.image_classification.config import CONFIGS, Config

Variant = Literal["float32", "dynamic_range", "int8"]


def evaluate(
    model: cli.Model,
    data: str | None = None,
    split: cli.Split = "test",
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: accuracy, precision and recall, confusion matrix, mistakes.

    Args:
        data: As for `train`; a split folder such as `flowers/val` is scored whole.
            Defaults to what the model was trained on.
    """
    from apps.image_classification.evaluate import evaluate

    report = evaluate(model, data, split, figures)
    if json:
        cli.print_json(report)


def predict(
    inputs: Positional[tuple[Path, ...]] = (),
    *,
    model: cli.Model,
    top: Count = 3,
    explain: bool = False,
    figure: cli.Figure = Path("runs/image_classification/predictions.png"),
):
    """Classify images; the answers are printed and drawn.

    Args:
        inputs: Image files: JPEG, PNG, BMP or GIF, of any size. Defaults to a few test
            images of the data that the model was trained on.
        top: Number of classes to show for each image.
        explain: Draw each image beside its Grad-CAM heat map; needs a run.
    """
    from apps.image_classification.predict import predict

    predict(inputs, model, top, explain, figure)


def export(
    run: cli.Run,
    to: cli.To = None,
    variants: tuple[Variant, ...] = ("float32", "dynamic_range", "int8"),
    replace: cli.Replace = False,
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        variants: TensorFlow Lite variants for the edge bundle.
    """
    from apps.image_classification.export import export

    return export(run, to or run / "export", variants, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, evaluate, predict, export)
