"""Scores a recognizer on recordings that it has not heard."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from apps.common import audio, baselines, figures, runs
from apps.common.predictors import data_settings
from apps.speech_recognition import metrics
from apps.speech_recognition.config import Config
from apps.speech_recognition.data import load_split
from apps.speech_recognition.signatures import load_model, word_times

BATCH_SIZE = 8  # Recordings per call of a predictor.
# Levels of a recording above the noise that is added to it, in decibels.
NOISE_LEVELS = (20, 10, 0)
# The signature of each search.
SEARCHES = {"greedy": "greedy", "beam": "serving_default"}
MAX_MATRIX_WORDS = 40
NUM_WORST = 4  # Recordings in the figure.


class Scores(NamedTuple):
    """The answers of a model.

    Attributes:
        transcripts: What it recognized.
        word_times: The start, the end and the text of each word of each transcript.
        seconds: The time that it took.
    """

    transcripts: list[str]
    word_times: list[list[tuple[float, float, str]]]
    seconds: float


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    columns: Mapping[str, str | None] | None = None,
    noise_sweep: bool = False,
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the error rates of both searches, by speaker and in noise.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used.
    """
    predictors = {name: load_model(model, SEARCHES[name]) for name in SEARCHES}
    config, is_other_data, held_out = data_settings(
        Config, model, data, **(columns or {})
    )
    examples = load_split(config, split, is_other_data, held_out)
    print(f"{len(examples)} recordings of {config.data}")
    rate = config.sampling_rate
    scores = {name: score(predictors[name], examples, rate) for name in SEARCHES}
    report = summarize(scores, examples, rate)
    if noise_sweep:
        report["noise"] = {
            level: metrics.error_rates(
                examples.texts,
                score(predictors["beam"], add_noise(examples, level), rate).transcripts,
            )
            for level in NOISE_LEVELS
        }
    report["baseline"] = baselines.beside(model, split, is_other_data)
    print_report(report)

    other_data = config.data if is_other_data else None
    folder = figures_folder or runs.evaluation_folder(
        model, "speech_recognition", other_data
    )
    draw(scores["beam"], examples, rate, folder)
    print(f"figures: {folder}")
    return report


def score(predictor, examples, rate):
    """Transcribes all recordings with a model, and measures the time."""
    files = [audio.encode_wav(each, rate) for each in examples.waveforms]
    predictor(files[:1])  # The first call is slow.
    transcripts, times, seconds = [], [], 0.0
    with tqdm(total=len(files), unit="recording", disable=None) as progress:
        for start in range(0, len(files), BATCH_SIZE):
            batch = files[start : start + BATCH_SIZE]
            began = time.perf_counter()
            answers = predictor(batch)
            seconds += time.perf_counter() - began
            transcripts += [each.decode() for each in answers["transcripts"]]
            times += map(word_times, answers["word_times"])
            progress.update(len(batch))
    return Scores(transcripts, times, seconds)


def add_noise(examples, decibels, seed=0):
    """Returns the `Examples` with white noise, so many decibels below the sound."""
    random = np.random.default_rng(seed)

    def add(waveform):
        scale = np.sqrt(np.mean(waveform**2) / 10 ** (decibels / 10))
        noisy = waveform + random.normal(0, scale, len(waveform))
        return (noisy / max(1, np.abs(noisy).max())).astype("float32")

    return replace(examples, waveforms=list(map(add, examples.waveforms)))


def summarize(scores, examples, rate):
    """Returns the metrics as plain numbers, by name.

    Args:
        scores: The `Scores` of both searches, `greedy` and `beam`.
        examples: The `Examples`.
        rate: Their sampling rate.
    """
    searches = {
        name: metrics.error_rates(examples.texts, each.transcripts)
        for name, each in scores.items()
    }
    seconds = sum(map(len, examples.waveforms)) / rate
    return {
        **searches["beam"],
        "recordings": len(examples),
        "seconds": round(seconds, 1),
        "real_time_factor": scores["beam"].seconds / seconds,
        "greedy": searches["greedy"],
        "speakers": by_speaker(examples, scores["beam"].transcripts),
    }


def by_speaker(examples, transcripts):
    """Returns the error rates of each speaker; nothing if no speaker is known."""
    rows = {}
    for speaker in sorted(set(examples.speakers) - {""}):
        chosen = [i for i, each in enumerate(examples.speakers) if each == speaker]
        rows[speaker] = metrics.error_rates(
            [examples.texts[i] for i in chosen], [transcripts[i] for i in chosen]
        )
    return rows


def print_report(report: Mapping[str, Any]) -> None:
    """Prints the metrics as tables."""
    rows = {"greedy": report["greedy"], "beam search": report}
    rows |= {f"speaker {name}": row for name, row in report["speakers"].items()}
    rows |= {f"noise at {n} dB": row for n, row in report.get("noise", {}).items()}
    width = max(map(len, rows))
    columns = ("WER", "CER", "exact", "subst.", "insert.", "delet.")
    print(f"{'':{width}}" + "".join(f"{column:>9}" for column in columns))
    for name, row in rows.items():
        print(
            f"{name:{width}}{row['wer']:9.4f}{row['cer']:9.4f}{row['accuracy']:9.4f}"
            f"{row['substitutions']:9}{row['insertions']:9}{row['deletions']:9}"
        )
    if baseline := report["baseline"]:
        scores = f"WER {baseline['wer']:.4f}, exact {baseline['accuracy']:.4f}"
        print(f"baseline {scores} ({baseline['name']})")
    print(
        f"{report['recordings']} recordings of {report['seconds']} seconds; real-time "
        f"factor {report['real_time_factor']:.3f}"
    )


def draw(scores, examples, rate, folder):
    """Draws the worst recordings, and the confusion matrix of single words.

    Args:
        scores: The `Scores` of the beam search.
        examples: The `Examples`.
        rate: Their sampling rate.
        folder: The folder of the PNG files.
    """
    transcripts = scores.transcripts
    errors = [
        metrics.count_errors(text, transcript)
        for text, transcript in zip(examples.texts, transcripts, strict=True)
    ]
    worst = np.argsort(-np.array(errors), kind="stable")[:NUM_WORST]
    panels = [
        (
            f"{examples.names[i]}: \u201c{transcripts[i]}\u201d instead of "
            f"\u201c{examples.texts[i]}\u201d",
            examples.waveforms[i],
            scores.word_times[i],
        )
        for i in worst
    ]
    figures.draw_recordings(panels, rate, folder / "worst.png")
    words = sorted(set(examples.texts))
    if len(words) <= MAX_MATRIX_WORDS and not any(" " in word for word in words):
        names = [*words, "other"]
        numbers = {word: i for i, word in enumerate(words)}
        figures.draw_confusion_matrix(
            np.array([numbers[text] for text in examples.texts]),
            np.array([numbers.get(text, len(words)) for text in transcripts]),
            names,
            folder / "confusion_matrix.png",
        )
