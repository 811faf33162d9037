"""Scores a captioner on images that it has not seen."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apps.common import baselines, datasets, figures, runs
from apps.common.predictors import Predictor, data_settings, in_batches
from apps.image_captioning import metrics
from apps.image_captioning.config import Config
from apps.image_captioning.data import Examples, load_examples, load_split
from apps.image_captioning.signatures import load_model, maps_of, words_of

# The signature of each search.
SEARCHES = {"greedy": "greedy", "beam": "serving_default"}


@dataclasses.dataclass(frozen=True)
class Scores:
    """The captions of a model.

    Attributes:
        captions: The captions.
        examples: The `Examples` that were captioned.
        seconds: The time it took.
    """

    captions: list[str]
    examples: Examples
    seconds: float


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    image_folder: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the metrics of both searches, and draws the worst and other captions.

    The arguments are the flags of the command, described in `__main__.py`; the columns
    are `image_column` and `caption_column`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used.
    """
    predictors = {name: load_model(model, SEARCHES[name]) for name in SEARCHES}
    config, is_other_data, held_out = data_settings(
        Config, model, data, **(columns or {})
    )
    if data or image_folder:
        config = dataclasses.replace(config, image_folder=image_folder)
    known: list[str] = []
    if is_other_data:
        examples = load_split(config, split, is_other_data)
    else:
        splits = load_examples(config, held_out)
        examples = datasets.pick_split(splits, split, config.data)
        known = splits["train"].all_captions
    print(f"{len(examples)} images of {config.data}")
    scores = {name: score(predictors[name], examples) for name in SEARCHES}
    report = summarize(scores, known)
    if baseline := baselines.beside(model, split, is_other_data):
        report["baseline"] = baseline
    print_report(report)

    other_data = config.data if is_other_data else None
    folder = figures_folder or runs.evaluation_folder(
        model, "image_captioning", other_data
    )
    draw(scores["beam"], predictors["beam"], folder)
    print(f"figures: {folder}")
    return report


def score(predictor: Predictor, examples: Examples) -> Scores:
    """Captions all images with a model, and measures the time, reading included."""

    def only_captions(encoded_images):
        return {"captions": predictor(encoded_images)["captions"]}

    predictor([examples.image_bytes(0)])  # The first call is slow.
    encoded_images = map(examples.image_bytes, range(len(examples)))
    start = time.perf_counter()
    captions = in_batches(only_captions, encoded_images)["captions"]
    seconds = time.perf_counter() - start
    return Scores([caption.decode() for caption in captions], examples, seconds)


def summarize(
    scores: Mapping[str, Scores], known: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the metrics as plain numbers, by name.

    Args:
        scores: The `Scores` of both searches, `greedy` and `beam`.
        known: The captions of the training images, which are not novel. Defaults to
            none; then there is no `novel`.
    """
    searches = {}
    for name, each in scores.items():
        searches[name] = {
            **metrics.score(each.captions, each.examples.captions),
            **metrics.variety(each.captions, known),
            "images_per_second": len(each.examples) / each.seconds,
        }
        if not known:
            del searches[name]["novel"]
    return {
        **searches["beam"],
        "images": len(scores["beam"].examples),
        "greedy": searches["greedy"],
    }


def print_report(report: Mapping[str, Any]) -> None:
    """Prints the metrics as a table, with the baseline."""
    columns = {
        "BLEU-1": "bleu_1",
        "BLEU-2": "bleu_2",
        "BLEU-3": "bleu_3",
        "BLEU-4": "bleu_4",
        "ROUGE-L": "rouge_l",
        "CIDEr-D": "cider",
        "exact": "exact",
        "distinct": "distinct",
        "novel": "novel",
        "words": "words",
        "per s": "images_per_second",
    }
    rows = {"greedy": report["greedy"], "beam": report}
    if "baseline" in report:
        rows["baseline"] = report["baseline"]
    print(" " * 10 + "".join(f"{title:>9}" for title in columns))
    for name, row in rows.items():
        values = [row.get(column) for column in columns.values()]
        cells = [
            " " * 9 if each is None else f"{round(each, 4):9.4g}" for each in values
        ]
        print(f"{name:10}{''.join(cells)}".rstrip())
    if "baseline" in report:
        print(f"baseline: {report['baseline']['name']}")


def draw(
    scores: Scores, predictor: Predictor, folder: Path, num_images: int = 6
) -> None:
    """Draws the attention of the worst captions and of others.

    Args:
        scores: The `Scores` to draw.
        predictor: The predictor of the search.
        folder: The folder for the figures.
        num_images: Number of images in a figure.
    """
    examples = scores.examples
    quality = metrics.ciders(scores.captions, examples.captions)
    worst = np.argsort(quality, kind="stable")[:num_images]
    typical = range(0, len(examples), -(-len(examples) // num_images))
    for name, indices in (("worst", worst), ("typical", typical)):
        chosen = datasets.take(examples, indices)
        encoded_images = list(map(chosen.image_bytes, range(len(chosen))))
        answers = in_batches(predictor, encoded_images)
        titles = [
            f"{scores.captions[i]}\n({references[0]})"
            for i, references in zip(indices, chosen.captions, strict=True)
        ]
        figures.draw_attention(
            encoded_images,
            words_of(answers),
            maps_of(answers),
            titles,
            folder / f"{name}.png",
        )
