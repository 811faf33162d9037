"""python -m apps.semantic_segmentation VERB --help.

The verbs are train, search, evaluate, predict and export.
"""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from apps.common import cli
from apps.common.errors import flag
from apps.common.ranges import Count
from apps.semantic_segmentation.config import CONFIGS, Config

Variant = Literal["float32", "dynamic_range", "int8"]
ImageSize = Annotated[
    tuple[int, int] | None,
    arg(
        help="Height and width of the model's input, multiples of 32. Defaults to "
        "those of the training; larger ones can help with small objects."
    ),
]


def search(run: cli.Run, max_images: Count = 24, image_size: ImageSize = None):
    """Search the parameters of a run's CRF on its validation images.

    Evaluation and export of the run use the best ones.

    Args:
        max_images: Number of validation images to use; fewer are faster.
    """
    from apps.semantic_segmentation.crf_search import search

    parameters = search(run, max_images, image_size)
    flags = " ".join(f"{flag(name)} {value:g}" for name, value in parameters.items())
    print(f"parameters: {run / 'crf.json'}")
    print(f"train with them from the start: {flags}")


def evaluate(
    model: cli.Model,
    data: cli.Data = None,
    split: cli.Split = "test",
    crf: bool = False,
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: mean IoU, pixel accuracy, boundary score, IoU of each class.

    Args:
        crf: Score the masks refined by the model's CRF too, and time it.
    """
    from apps.semantic_segmentation.evaluate import evaluate

    report = evaluate(model, data, split, crf, figures)
    if json:
        cli.print_json(report)


def predict(
    inputs: Positional[tuple[Path, ...]] = (),
    *,
    model: cli.Model,
    crf: bool = True,
    masks: Path | None = None,
    figure: cli.Figure = Path("runs/semantic_segmentation/predictions.png"),
):
    """Segment images; their classes are printed and the masks are drawn.

    Args:
        inputs: Image files: JPEG, PNG, BMP or GIF, of any size. Defaults to a few test
            images of the data that the model was trained on.
        crf: Refine the masks by the CRF, and draw them beside the others.
        masks: Folder for the masks, as PNG files of class numbers.
    """
    from apps.semantic_segmentation.predict import predict

    predict(inputs, model, crf, masks, figure)


def export(
    run: cli.Run,
    to: cli.To = None,
    variants: tuple[Variant, ...] = ("float32", "dynamic_range", "int8"),
    crf: bool = True,
    image_size: ImageSize = None,
    replace: cli.Replace = False,
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        variants: TensorFlow Lite variants for the edge bundle.
        crf: Add the CRF: the signature `with_crf`, and `crf.tflite` for devices.
    """
    from apps.semantic_segmentation.export import export

    return export(run, to or run / "export", variants, crf, image_size, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, search, evaluate, predict, export)
