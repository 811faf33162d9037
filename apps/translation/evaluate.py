"""Scores a model, whatever it is, on sentences it has not seen."""

import dataclasses
import json as json_module
import time

from apps.common import datasets, pictures, runs
from apps.common.errors import BadInput
from apps.common.predictors import in_batches, training_config
from apps.translation import metrics
from apps.translation.config import Config
from apps.translation.data import Pairs, load_split
from apps.translation.model import alignments, load_model

SEARCHES = {"greedy": "greedy", "beam": "serving_default"}


@dataclasses.dataclass(frozen=True)
class Translations:
    """What a model answered, and what it should have.

    Attributes:
        translations: Strings.
        pairs: The pairs that were translated.
        seconds: How long it took.
    """

    translations: list[str]
    pairs: Pairs
    seconds: float


def evaluate(
    model,
    data=None,
    target_data=None,
    split="test",
    source_column=None,
    target_column=None,
    json=False,
    pictures_folder=None,
):
    """Prints BLEU, chrF and speed of greedy and beam search, and BLEU by length.

    Draws BLEU by length, and where attention went in the worst translations and in
    typical ones.

    Args:
        model: Where the model is, as `predictors.load_predictor` takes it.
        data: As in `Config.data`. Defaults to what the model was trained on.
        target_data: As in `Config`.
        split: As `data.load_split` takes it.
        source_column: As in `Config`. Defaults to that of the training.
        target_column: As in `Config`. Defaults to that of the training.
        json: Whether to print one JSON object as the last line.
        pictures_folder: Where to draw. Defaults to `evaluation` in a run directory,
            and to `runs/translation/evaluation` for other models.

    Returns:
        The `Translations` of the beam search.

    Raises:
        BadInput: The model or the data cannot be used.
    """
    if target_data and not data:
        raise BadInput(
            f"--target-data {target_data} belongs to --data; add its text file"
        )
    predictors = {name: load_model(model, SEARCHES[name]) for name in SEARCHES}
    trained = training_config(Config, model, data)
    config = dataclasses.replace(
        trained,
        data=data or trained.data,
        target_data=target_data if data else trained.target_data,
        source_column=source_column or trained.source_column,
        target_column=target_column or trained.target_column,
    )
    foreign = not datasets.is_same(config.data, trained.data)
    pairs = load_split(config, split, foreign)
    print(f"{len(pairs)} sentences of {config.data}")
    answers = {
        name: translate(predictor, pairs) for name, predictor in predictors.items()
    }
    report = summarize(answers, config.target_column)
    print_report(report)

    folder = pictures_folder or runs.evaluation_folder(model, "translation")
    draw(answers["beam"], report, predictors["beam"], folder)
    print(f"pictures: {folder}")
    if json:
        print(json_module.dumps(report, ensure_ascii=False))
    return answers["beam"]


def translate(predictor, pairs):
    """Asks the model for all translations; returns `Translations`."""
    predictor(pairs.sources[:1])  # The first call prepares the graph.
    start = time.perf_counter()
    translations = metrics.translate(predictor, pairs.sources)
    return Translations(translations, pairs, time.perf_counter() - start)


def summarize(answers, language):
    """Returns the metrics as plain numbers, by name.

    Args:
        answers: `Translations` by the name of their search.
        language: The code of the language that was written.
    """
    searches = {}
    for name, answer in answers.items():
        searches[name] = metrics.score(
            answer.translations, answer.pairs.targets, language
        )
        searches[name]["sentences_per_second"] = len(answer.pairs) / answer.seconds
    beam = answers["beam"]
    return {
        **searches["beam"],
        "sentences": len(beam.pairs),
        "greedy": searches["greedy"],
        "by_length": metrics.by_length(
            beam.pairs.sources, beam.translations, beam.pairs.targets
        ),
    }


def print_report(report):
    """Prints the metrics as tables."""
    print(
        f"{'':8}{'BLEU':>8}{'lower-cased':>14}{'chrF':>8}{'exact':>8}{'a second':>10}"
    )
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


def draw(answers, report, predictor, folder, most=9):
    """Draws BLEU by length, and the attention of the worst and of typical sentences.

    Args:
        answers: The `Translations`.
        report: From `summarize`.
        predictor: What answered; it is asked again where attention went.
        folder: Where to draw.
        most: Sentences in a picture.
    """
    pictures.draw_bars(
        [f"{row['words']}\n({row['sentences']})" for row in report["by_length"]],
        [row["bleu"] for row in report["by_length"]],
        folder / "bleu_by_length.png",
        "words (sentences)",
        "BLEU",
    )
    pairs = answers.pairs
    worst = metrics.worst(answers.translations, pairs.targets, most)
    typical = range(0, len(pairs), -(-len(pairs) // most))
    for name, chosen in (("worst", worst), ("typical", typical)):
        sources = [pairs.sources[i] for i in chosen]
        titles = [
            f"{pairs.sources[i]}\n→ {answers.translations[i]}\n({pairs.targets[i]})"
            for i in chosen
        ]
        pictures.draw_alignments(
            titles, alignments(in_batches(predictor, sources)), folder / f"{name}.png"
        )
