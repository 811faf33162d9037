"""Scores a translator on sentences that it has not seen."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.common import datasets, figures, runs
from apps.common.errors import BadInput
from apps.common.predictors import Predictor, data_settings, in_batches
from apps.translation import metrics
from apps.translation.config import Config
from apps.translation.data import Examples, load_split
from apps.translation.signatures import alignments, load_model

# The signature of each search.
SEARCHES = {"greedy": "greedy", "beam": "serving_default"}


@dataclasses.dataclass(frozen=True)
class Scores:
    """The translations of a model.

    Attributes:
        translations: The translations.
        examples: The `Examples` that were translated.
        seconds: The time it took.
    """

    translations: list[str]
    examples: Examples
    seconds: float


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    target_data: str | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the metrics of both searches, draws BLEU by length and the attention.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used.
    """
    if target_data and not data:
        raise BadInput(
            f"--target-data {target_data} belongs to --data; add its text file"
        )
    predictors = {name: load_model(model, SEARCHES[name]) for name in SEARCHES}
    with_attention = load_model(model, "with_attention")
    config, is_other_data, held_out = data_settings(
        Config, model, data, source_column=source_column, target_column=target_column
    )
    if data:
        config = dataclasses.replace(config, target_data=target_data)
    examples = load_split(config, split, is_other_data, held_out)
    print(f"{len(examples)} sentences of {config.data}")
    scores = {name: score(predictors[name], examples) for name in SEARCHES}
    report = summarize(scores, config.target_column)
    print_report(report)

    other_data = config.data if is_other_data else None
    folder = figures_folder or runs.evaluation_folder(model, "translation", other_data)
    draw(scores["beam"], report, with_attention, folder)
    print(f"figures: {folder}")
    return report


def score(predictor: Predictor, examples: Examples) -> Scores:
    """Translates all sentences with a model, and measures the time."""
    predictor(examples.sources[:1])  # The first call is slow.
    start = time.perf_counter()
    translations = metrics.translate(predictor, examples.sources)
    return Scores(translations, examples, time.perf_counter() - start)


def summarize(scores: Mapping[str, Scores], language: str) -> dict[str, Any]:
    """Returns the metrics as plain numbers, by name.

    Args:
        scores: The `Scores` of both searches, `greedy` and `beam`.
        language: Code of the target language.
    """
    searches = {}
    for name, each in scores.items():
        searches[name] = metrics.score(
            each.translations, each.examples.targets, language
        )
        speed = len(each.examples) / each.seconds
        searches[name]["sentences_per_second"] = speed
    beam = scores["beam"]
    return {
        **searches["beam"],
        "sentences": len(beam.examples),
        "greedy": searches["greedy"],
        "by_length": metrics.by_length(
            beam.examples.sources, beam.translations, beam.examples.targets
        ),
    }


def print_report(report: Mapping[str, Any]) -> None:
    """Prints the metrics as tables."""
    print(f"{'':8}{'BLEU':>8}{'lower-cased':>14}{'chrF':>8}{'exact':>8}{'per s':>10}")
    for name, row in (("greedy", report["greedy"]), ("beam", report)):
        print(
            f"{name:8}{row['bleu']:8.2f}{row['bleu_lowercased_tokenized']:14.2f}"
            f"{row['chrf']:8.2f}{row['exact']:8.4f}{row['sentences_per_second']:10.1f}"
        )
    print(f"\n{'words':>12}{'sentences':>12}{'BLEU':>8}")
    for row in report["by_length"]:
        print(f"{row['words']:>12}{row['sentences']:12}{row['bleu']:8.2f}")
    print()
    for name, signature in report["signatures"].items():
        print(f"{name}: {signature}")


def draw(
    scores: Scores,
    report: Mapping[str, Any],
    predictor: Predictor,
    folder: Path,
    num_sentences: int = 9,
) -> None:
    """Draws BLEU by length, and the attention of the worst and of other translations.

    Args:
        scores: The `Scores` to draw.
        report: From `summarize`.
        predictor: Its signature `with_attention`.
        folder: The folder for the figures.
        num_sentences: Number of sentences in a figure.
    """
    figures.draw_bars(
        [f"{row['words']}\n({row['sentences']})" for row in report["by_length"]],
        [row["bleu"] for row in report["by_length"]],
        folder / "bleu_by_length.png",
        "words (sentences)",
        "BLEU",
    )
    examples = scores.examples
    worst = metrics.worst(scores.translations, examples.targets, num_sentences)
    typical = range(0, len(examples), -(-len(examples) // num_sentences))
    for name, indices in (("worst", worst), ("typical", typical)):
        chosen = datasets.take(examples, indices)
        titles = [
            f"{source}\n→ {scores.translations[i]}\n({target})"
            for i, source, target in zip(
                indices, chosen.sources, chosen.targets, strict=True
            )
        ]
        answers = in_batches(predictor, chosen.sources)
        figures.draw_alignments(titles, alignments(answers), folder / f"{name}.png")
