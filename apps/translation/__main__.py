"""python -m apps.translation {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.translation.config import CONFIGS, Config

# No int8: 8-bit activations make the fused LSTM several times slower.
Variant = Literal["float32", "float16", "dynamic_range"]


def evaluate(
    model: cli.Model,
    data: str | None = None,
    split: str = "test",
    target_data: str | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: BLEU, chrF and speed, greedy and by beam search, by length.

    Args:
        data: As for `train`; data without splits is scored whole. Defaults to what the
            model was trained on.
        split: Which part of the data to score: `test`, `train`, `validation`, another
            file of the folder such as `test_2017_flickr`, or `all`.
        target_data: Text file with the translations, if `data` is a text file.
        source_column: The column of the sentences. Defaults to that of the training.
        target_column: The column of the translations. Defaults to that of the training.
    """
    from apps.translation.evaluate import evaluate

    report = evaluate(
        model, data, split, target_data, source_column, target_column, figures
    )
    if json:
        cli.print_json(report)


def predict(
    texts: Positional[tuple[str, ...]] = (),
    *,
    model: cli.Model,
    file: cli.File = None,
    figure: cli.Figure = Path("runs/translation/predictions.png"),
):
    """Translate texts; the translations are printed, the attention is drawn.

    Args:
        texts: The texts. Defaults to those of the file; without a file, to a few test
            sentences of the data that the model was trained on.
    """
    from apps.translation.predict import predict

    predict(texts, model, file, figure)


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
    from apps.translation.export import export

    return export(run, to or run / "export", variants, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, evaluate, predict, export)
