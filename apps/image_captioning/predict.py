"""Captions images: answers on the screen, and a figure of the attention."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, figures, images, runs
from apps.common.predictors import data_settings, in_batches
from apps.image_captioning.config import Config
from apps.image_captioning.data import load_split
from apps.image_captioning.signatures import load_model, maps_of, words_of

MAX_DRAWN = 12  # Images in the figure.


def predict(
    inputs: Sequence[Path], model: str, tsv: Path | None, figure: Path
) -> dict[str, np.ndarray]:
    """Prints a caption of each image and draws the attention.

    A line has the name of the image, a tab and the caption.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The answers: `captions`, `scores`, `tokens` and `attention`, one for each image.

    Raises:
        BadInput: The model or an image cannot be used.
    """
    predictor = load_model(model)
    if inputs:
        names, files = images.find_images(inputs)
        answers = in_batches(predictor, map(images.read_image, files))
        first_images = [path.read_bytes() for path in files[:MAX_DRAWN]]
    else:
        names, first_images = some_test_images(model)
        answers = in_batches(predictor, first_images)
    captions = [caption.decode() for caption in answers["captions"]]
    for name, caption in zip(names, captions, strict=True):
        print(f"{name}\t{caption}")
    if tsv is not None:
        write_table(tsv, names, captions, answers["scores"])
        print(f"table: {tsv}")
    figures.draw_attention(
        first_images,
        words_of(answers)[:MAX_DRAWN],
        maps_of(answers)[:MAX_DRAWN],
        captions[:MAX_DRAWN],
        figure,
    )
    print(f"figure: {figure}")
    return answers


def write_table(
    path: Path, names: Sequence[str], captions: Sequence[str], scores: np.ndarray
) -> None:
    """Writes a table with a header and the name, caption and score of each image.

    `text.read_table` reads it: there are no quotes, and spaces stand for tabs and line
    breaks.
    """
    rows = [("image", "caption", "score")]
    for name, caption, value in zip(names, captions, scores, strict=True):
        rows.append((name, caption, f"{value:.4f}"))
    lines = ["\t".join(re.sub(r"[\t\r\n]", " ", each) for each in row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def some_test_images(
    model: str, num_images: int = MAX_DRAWN
) -> tuple[list[str], list[bytes]]:
    """Returns the names and bytes of images that the model was not trained on."""
    config, _, held_out = data_settings(Config, model)
    examples = load_split(config, "test", held_out=held_out)
    examples = datasets.evenly(examples, num_images)
    return examples.names, list(map(examples.image_bytes, range(len(examples))))
