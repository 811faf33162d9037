"""python -m apps.image_classification {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.image_classification.config import CONFIGS, Config

# Each command imports its module when it is run, so that help answers at once.


def train(config: Config, run: Path):
    """Train a classifier; after an interruption the same command continues it.

    Args:
        config: All that a training can change.
        run: Directory for checkpoints, logs and pictures.
    """
    from apps.image_classification.train import train

    summary = train(config, run)
    print(
        f"validation accuracy {summary['val_accuracy']:.4f} in epoch "
        f"{summary['best_epoch']} of {summary['epochs']}, {summary['minutes']} minutes"
    )
    print(f"run: {run}")


def evaluate(
    model: str,
    data: str | None = None,
    split: Literal["test", "train", "validation", "all"] = "test",
    json: bool = False,
    pictures: Path | None = None,
):
    """Score any model: accuracy, precision and recall, confusion matrix, mistakes.

    Args:
        model: A run, `saved_models/image_classification/1`, an `edge` bundle or one of
            its .tflite files, `http://HOST:8501/v1/models/NAME` or
            `grpc://HOST:8500/NAME`.
        data: As for `train`; a split folder such as `flowers/val` is scored whole. By
            default what the model was trained on.
        split: Which part of the data to score.
        json: Print one JSON object as the last line.
        pictures: Folder for the pictures. By default `evaluation` in the run, or
            `runs/image_classification/evaluation`.
    """
    from apps.image_classification.evaluate import evaluate

    evaluate(model, data, split, json, pictures)


def predict(
    inputs: Positional[tuple[Path, ...]] = (),
    *,
    model: str,
    top: int = 3,
    explain: bool = False,
    picture: Path = Path("runs/image_classification/predictions.png"),
):
    """Classify images; the answers are printed and drawn.

    Args:
        inputs: Image files: JPEG, PNG, BMP or GIF, of any size. Without any, a few
            test images of the data that the model was trained on.
        model: As for `evaluate`.
        top: Classes to show for each image.
        explain: Lay over each image where the model looked (Grad-CAM); needs a run.
        picture: The PNG file to draw.
    """
    from apps.image_classification.predict import predict

    predict(inputs, model, top, explain, picture)


def export(
    run: Path,
    to: Path = Path("saved_models/image_classification"),
    variants: tuple[Literal["float32", "dynamic_range", "int8"], ...] = (
        "float32",
        "dynamic_range",
        "int8",
    ),
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        run: The run to export.
        to: Directory of the served model.
        variants: TensorFlow Lite models to make.
    """
    from apps.image_classification.export import export

    version = export(run, to, variants)
    print(f"model: {version}")
    print(f"edge bundle: {to / 'edge'}")
    print(f"card: {to / 'card.md'}")


if __name__ == "__main__":
    cli.main(
        "image_classification",
        train,
        evaluate,
        predict,
        export,
        presets=CONFIGS,
        own_data=Config,
    )
