"""python -m apps.face_synthesis {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from apps.common import cli
from apps.common.ranges import Range
from apps.face_synthesis.config import CONFIGS, Config

# No int8: 8-bit activations are seen in the faces.
Variant = Literal["float32", "float16", "dynamic_range"]


def evaluate(
    model: cli.Model,
    data: cli.Data = None,
    split: cli.Split = "test",
    num_samples: Annotated[int, Range(2, 10**5)] | None = None,
    weights: str | None = None,
    attribute_file: str | None = None,
    image_column: str | None = None,
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: Fréchet and kernel distance, precision and recall of its faces.

    Args:
        num_samples: Number of faces to draw. Defaults to that of the training.
        weights: Weights of MobileNetV2, as for `train`. Defaults to those of the
            training.
        attribute_file: The table of attributes, as for `train`.
        image_column: Its column of the images. Defaults to that of the training.
    """
    from apps.face_synthesis.evaluate import evaluate

    report = evaluate(
        *(model, data, split, num_samples, weights),
        attribute_file,
        image_column,
        figures,
    )
    if json:
        cli.print_json(report)


def predict(
    inputs: Positional[tuple[int, ...]] = (),
    *,
    model: cli.Model,
    attributes: tuple[str, ...] = (),
    truncation: Annotated[float, Range(0, 2)] = 1.0,
    interpolate: Annotated[int, Range(0, 100)] = 0,
    direction: str | None = None,
    data: cli.Data = None,
    images: tuple[Path, ...] = (),
    folder: Path | None = None,
    animation: Path | None = None,
    figure: cli.Figure = Path("runs/face_synthesis/predictions.png"),
):
    """Draw faces from seeds, between them, and with more or less of an attribute.

    Args:
        inputs: Seeds, from 0 to 2147483647. Defaults to those from 0 to 63.
        attributes: Wanted attributes for a conditional GAN, such as `gender=female`.
        truncation: Factor of the distance from the mean face. Less gives better faces,
            and less variety.
        interpolate: Number of faces to draw between each seed and the next.
        direction: An attribute such as `gender=female`; each face is drawn with less
            and more of it, by latent arithmetic.
        data: The training data, if it was moved; only `--direction` of a model without
            attributes needs it.
        images: Images for an autoencoder to reconstruct, instead of seeds.
        folder: Folder for a PNG file of each face.
        animation: GIF or WebP file of a walk from face to face.
    """
    from apps.face_synthesis.predict import predict

    predict(
        inputs,
        model,
        attributes,
        truncation,
        interpolate,
        direction,
        data,
        images,
        folder,
        animation,
        figure,
    )


def export(
    run: cli.Run,
    to: cli.To = None,
    variants: tuple[Variant, ...] = ("float32", "float16", "dynamic_range"),
    replace: cli.Replace = False,
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        variants: TensorFlow Lite variants for the edge bundle.
    """
    from apps.face_synthesis.export import export

    return export(run, to or run / "export", variants, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, evaluate, predict, export)
