"""python -m apps.speech_recognition {train,evaluate,predict,export} --help."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from apps.common import cli
from apps.common.ranges import Range
from apps.speech_recognition.config import CONFIGS, MAX_SECONDS, Config

Variant = Literal["float32", "dynamic_range"]


def evaluate(
    model: cli.Model,
    data: cli.Data = None,
    split: cli.Split = "test",
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
    noise: Annotated[
        bool, arg(help="Also score the recordings with noise 20, 10 and 0 dB below.")
    ] = False,
    json: cli.Json = False,
    figures: cli.Figures = None,
):
    """Score a model: word and character error rates, by search and by speaker.

    Single words also get their accuracy and a confusion matrix.

    Args:
        audio_column: The column of the audio files. Defaults to that of the training.
        text_column: The column of the texts. Defaults to that of the training.
        speaker_column: The column of the speakers. Defaults to that of the training.
    """
    from apps.speech_recognition.evaluate import evaluate

    columns = {
        "audio_column": audio_column,
        "text_column": text_column,
        "speaker_column": speaker_column,
    }
    report = evaluate(model, data, split, columns, noise, figures)
    if json:
        cli.print_json(report)


def predict(
    inputs: Positional[tuple[Path, ...]] = (),
    *,
    model: cli.Model,
    microphone: Annotated[float | None, Range(0.1, MAX_SECONDS)] = None,
    json: Path | None = None,
    srt: Path | None = None,
    figure: cli.Figure = Path("runs/speech_recognition/predictions.png"),
):
    """Transcribe recordings; the words are printed and drawn above the sound.

    Args:
        inputs: WAV, FLAC, OGG and MP3 files of any length, and folders of them.
            Defaults to a few test recordings of the data that the model was trained on.
        microphone: Record so many seconds with the microphone instead.
        json: File for the transcripts and the times of all words.
        srt: File for the subtitles of a single recording.
    """
    from apps.speech_recognition.predict import predict

    predict(inputs, model, microphone, json, srt, figure)


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
    from apps.speech_recognition.export import export

    return export(run, to or run / "export", variants, replace)


if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS, evaluate, predict, export)
