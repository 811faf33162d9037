"""python -m apps.sentiment_analysis {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.sentiment_analysis.config import CONFIGS, Config

# No int8: the fused LSTM is several times slower with 8-bit activations.
Variant = Literal["float32", "dynamic_range"]


def evaluate(
    model: cli.Model,
    data: str | None = None,
    split: cli.Split = "test",
    text_column: str | None = None,
    label_column: str | None = None,
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: macro recall, accuracy, F1, confusion matrix, calibration.

    Args:
        data: As for `train`; data without splits is scored whole. Defaults to what the
            model was trained on.
        text_column: The column of the texts. Defaults to that of the training.
        label_column: The column of the class names. Defaults to that of the training.
    """
    from apps.sentiment_analysis.evaluate import evaluate

    report = evaluate(model, data, split, text_column, label_column, figures)
    if json:
        cli.print_json(report)


def predict(
    texts: Positional[tuple[str, ...]] = (),
    *,
    model: cli.Model,
    file: cli.File = None,
    figure: cli.Figure = Path("runs/sentiment_analysis/predictions.png"),
):
    """Classify texts; the answers are printed, and drawn with the attention weights.

    Args:
        texts: The texts. Defaults to those of the file; without a file, to a few test
            texts of the data that the model was trained on.
    """
    from apps.sentiment_analysis.predict import predict

    predict(texts, model, file, figure)


def export(
    run: cli.Run,
    to: cli.To = None,
    variants: tuple[Variant, ...] = ("float32", "dynamic_range"),
    replace: cli.Replace = False,
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        variants: TensorFlow Lite variants for the edge bundle.
    """
    from apps.sentiment_analysis.export import export

    return export(run, to or run / "export", variants, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, evaluate, predict, export)
