"""python -m apps.semantic_segmentation {train,search,evaluate,predict,export}."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.semantic_segmentation.config import CONFIGS, Config

# Each command imports its module when it is run, so that help answers at once.


def train(config: Config, run: Path):
    """Train a segmenter; after an interruption the same command continues it.

    Args:
        config: All that a training can change.
        run: Directory for checkpoints, logs and pictures.
    """
    from apps.semantic_segmentation.train import train

    summary = train(config, run)
    if "val_mean_iou" in summary:
        print(f"validation mean IoU {summary['val_mean_iou']:.4f}")
    print(
        f"epoch {summary['best_epoch']} of {summary['epochs']} is kept, "
        f"{summary['minutes']} minutes"
    )
    print(f"run: {run}")


def search(run: Path, images: int = 24, image_size: tuple[int, int] | None = None):
    """Search the parameters of a run's CRF on its validation images.

    Args:
        run: A run whose training held out validation images.
        images: How many of them to use.
        image_size: Height and width of the input, as for `export`.
    """
    from apps.semantic_segmentation.crf_search import search

    settings = search(run, images, image_size)
    flags = " ".join(
        f"--{name.replace('_', '-')} {value:g}" for name, value in settings.items()
    )
    print(f"kept in {run / 'crf.json'}; to train with it from the start: {flags}")


def evaluate(
    model: str,
    data: str | None = None,
    split: Literal["test", "train", "validation", "all"] = "test",
    crf: bool = False,
    json: bool = False,
    pictures: Path | None = None,
):
    """Score any model: mean IoU, pixel accuracy, boundaries, IoU of each class.

    Args:
        model: A run, `saved_models/semantic_segmentation/1`, an `edge` bundle or one of
            its .tflite files, `http://HOST:8501/v1/models/NAME` or
            `grpc://HOST:8500/NAME`.
        data: As for `train`. By default what the model was trained on.
        split: Which part of the data to score.
        crf: Score the masks refined by the model's CRF too, and time it.
        json: Print one JSON object as the last line.
        pictures: Folder for the pictures. By default `evaluation` in the run, or
            `runs/semantic_segmentation/evaluation`.
    """
    from apps.semantic_segmentation.evaluate import evaluate

    evaluate(model, data, split, crf, json, pictures)


def predict(
    inputs: Positional[tuple[Path, ...]] = (),
    *,
    model: str,
    crf: bool = True,
    masks: Path | None = None,
    picture: Path = Path("runs/semantic_segmentation/predictions.png"),
):
    """Segment images; what they show is printed, and drawn over them.

    Args:
        inputs: Image files: JPEG, PNG, BMP or GIF, of any size. Without any, a few
            test images of the data that the model was trained on.
        model: As for `evaluate`.
        crf: Show the masks refined by the CRF beside the plain ones.
        masks: Folder to write the masks to, as PNG files of class numbers.
        picture: The PNG file to draw.
    """
    from apps.semantic_segmentation.predict import predict

    predict(inputs, model, crf, masks, picture)


def export(
    run: Path,
    to: Path = Path("saved_models/semantic_segmentation"),
    variants: tuple[Literal["float32", "dynamic_range", "int8"], ...] = (
        "float32",
        "dynamic_range",
        "int8",
    ),
    crf: bool = True,
    image_size: tuple[int, int] | None = None,
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        run: The run to export.
        to: Directory of the served model.
        variants: TensorFlow Lite models to make.
        crf: Add the CRF: the signature `with_crf`, and `crf.tflite` for devices.
        image_size: Height and width of the model's input, multiples of 32. By default
            those of the training; larger ones can help small objects.
    """
    from apps.semantic_segmentation.export import export

    version = export(run, to, variants, crf, image_size)
    print(f"model: {version}")
    print(f"edge bundle: {to / 'edge'}")
    print(f"card: {to / 'card.md'}")


if __name__ == "__main__":
    cli.main(
        "semantic_segmentation",
        train,
        search,
        evaluate,
        predict,
        export,
        presets=CONFIGS,
        own_data=Config,
    )
