"""python -m apps.sentiment_analysis {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.sentiment_analysis.config import CONFIGS, Config

# Each command imports its module when it is run, so that help answers at once.


def train(config: Config, run: Path):
    """Train a classifier of texts; after an interruption the same command continues it.

    Args:
        config: All that a training can change.
        run: Directory for checkpoints, logs and pictures.
    """
    from apps.sentiment_analysis.train import train

    summary = train(config, run)
    print(
        f"validation macro recall {summary['val_macro_recall']:.4f} in epoch "
        f"{summary['best_epoch']} of {summary['epochs']}, {summary['minutes']} minutes"
    )
    print(f"run: {run}")


def evaluate(
    model: str,
    data: str | None = None,
    split: Literal["test", "train", "validation", "all"] = "test",
    text_column: str | None = None,
    label_column: str | None = None,
    json: bool = False,
    pictures: Path | None = None,
):
    """Score any model: macro recall, accuracy, F1, confusion matrix, calibration.

    Args:
        model: A run, `saved_models/sentiment_analysis/1`, an `edge` bundle or one of
            its .tflite files, `http://HOST:8501/v1/models/NAME` or
            `grpc://HOST:8500/NAME`.
        data: As for `train`; a single file is scored whole. By default what the model
            was trained on.
        split: Which part of the data to score.
        text_column: The column of the texts. By default as in the training.
        label_column: The column of the labels. By default as in the training.
        json: Print one JSON object as the last line.
        pictures: Folder for the pictures. By default `evaluation` in the run, or
            `runs/sentiment_analysis/evaluation`.
    """
    from apps.sentiment_analysis.evaluate import evaluate

    evaluate(model, data, split, text_column, label_column, json, pictures)


def predict(
    texts: Positional[tuple[str, ...]] = (),
    *,
    model: str,
    file: Path | None = None,
    picture: Path = Path("runs/sentiment_analysis/predictions.png"),
):
    """Classify texts; the answers are printed, and drawn with what attention looked at.

    Args:
        texts: The texts. Without any, and without a file, a few test texts of the data
            that the model was trained on.
        model: As for `evaluate`.
        file: A file with one text in each line; `-` reads standard input.
        picture: The PNG file to draw.
    """
    from apps.sentiment_analysis.predict import predict

    predict(texts, model, file, picture)


def export(
    run: Path,
    to: Path = Path("saved_models/sentiment_analysis"),
    variants: tuple[Literal["float32", "dynamic_range"], ...] = (
        "float32",
        "dynamic_range",
    ),
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        run: The run to export.
        to: Directory of the served model.
        variants: TensorFlow Lite models to make.
    """
    from apps.sentiment_analysis.export import export

    version = export(run, to, variants)
    print(f"model: {version}")
    print(f"edge bundle: {to / 'edge'}")
    print(f"card: {to / 'card.md'}")


if __name__ == "__main__":
    cli.main(
        "sentiment_analysis",
        train,
        evaluate,
        predict,
        export,
        presets=CONFIGS,
        own_data=Config,
    )
