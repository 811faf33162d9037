"""python -m apps.translation {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from apps.common import cli
from apps.translation.config import CONFIGS, Config

# Each command imports its module when it is run, so that help answers at once.


def train(config: Config, run: Path):
    """Train a translator; after an interruption the same command continues it.

    Args:
        config: All that a training can change.
        run: Directory for checkpoints, logs and pictures.
    """
    from apps.translation.train import train

    summary = train(config, run)
    print(
        f"validation BLEU {summary['val_bleu']:.2f}, greedy, in epoch "
        f"{summary['best_epoch']} of {summary['epochs']}, {summary['minutes']} minutes"
    )
    print(f"run: {run}")


def evaluate(
    model: str,
    data: str | None = None,
    target_data: str | None = None,
    split: str = "test",
    source_column: str | None = None,
    target_column: str | None = None,
    json: bool = False,
    pictures: Path | None = None,
):
    """Score any model: BLEU, chrF and speed, greedy and by beam search, by length.

    Args:
        model: A run, `saved_models/translation/1`, an `edge` bundle or one of its
            .tflite files, `http://HOST:8501/v1/models/NAME` or
            `grpc://HOST:8500/NAME`.
        data: As for `train`; a single file is scored whole. By default what the model
            was trained on.
        target_data: The translations, where `data` is a text file.
        split: Which part of the data to score: `test`, `train`, `validation`, another
            file of the folder such as `test_2017_flickr`, or `all`.
        source_column: The column of the sentences. By default as in the training.
        target_column: The column of the translations. By default as in the training.
        json: Print one JSON object as the last line.
        pictures: Folder for the pictures. By default `evaluation` in the run, or
            `runs/translation/evaluation`.
    """
    from apps.translation.evaluate import evaluate

    evaluate(
        model, data, target_data, split, source_column, target_column, json, pictures
    )


def predict(
    texts: Positional[tuple[str, ...]] = (),
    *,
    model: str,
    file: Path | None = None,
    picture: Path = Path("runs/translation/predictions.png"),
):
    """Translate texts; where attention went, piece by piece, is drawn.

    Args:
        texts: The texts. Without any, and without a file, a few test sentences of the
            data that the model was trained on.
        model: As for `evaluate`.
        file: A file with one text in each line; `-` reads standard input.
        picture: The PNG file to draw.
    """
    from apps.translation.predict import predict

    predict(texts, model, file, picture)


def export(
    run: Path,
    to: Path = Path("saved_models/translation"),
    variants: tuple[Literal["float32", "float16", "dynamic_range"], ...] = (
        "float32",
        "float16",
        "dynamic_range",
    ),
):
    """Publish a run: a SavedModel version, an edge bundle and their card.

    Args:
        run: The run to export.
        to: Directory of the served model.
        variants: TensorFlow Lite models to make.
    """
    from apps.translation.export import export

    version = export(run, to, variants)
    print(f"model: {version}")
    print(f"edge bundle: {to / 'edge'}")
    print(f"card: {to / 'card.md'}")


if __name__ == "__main__":
    cli.main(
        "translation",
        train,
        evaluate,
        predict,
        export,
        presets=CONFIGS,
        own_data=Config,
    )
