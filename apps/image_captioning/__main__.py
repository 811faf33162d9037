"""python -m apps.image_captioning {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.image_captioning.config import CONFIGS, Config

# No int8: the decoder's choices are close, and 8-bit activations change them.
Variant = Literal["float32", "float16", "dynamic_range"]


def evaluate(
    model: cli.Model,
    data: cli.Data = None,
    split: cli.Split = "test",
    image_folder: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: BLEU, ROUGE-L and CIDEr-D, greedy and by beam search; variety.

    Args:
        image_folder: Folder of the images, if they are not in that of the captions.
        image_column: The column of the images. Defaults to that of the training.
        caption_column: The column of the captions. Defaults to that of the training.
    """
    from apps.image_captioning.evaluate import evaluate

    columns = {"image_column": image_column, "caption_column": caption_column}
    report = evaluate(model, data, split, image_folder, columns, figures)
    if json:
        cli.print_json(report)


def predict(
    inputs: Positional[tuple[Path, ...]] = (),
    *,
    model: cli.Model,
    tsv: Path | None = None,
    figure: cli.Figure = Path("runs/image_captioning/predictions.png"),
):
    """Caption images; the attention is drawn over the image, word by word.

    Args:
        inputs: Image files, and folders of them. Defaults to a few test images of the
            data that the model was trained on.
        tsv: File for a table with the columns image, caption and score.
    """
    from apps.image_captioning.predict import predict

    predict(inputs, model, tsv, figure)


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
    from apps.image_captioning.export import export

    return export(run, to or run / "export", variants, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, evaluate, predict, export)
