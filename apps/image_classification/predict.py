"""Classifies images: answers on the screen, and a figure of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, figures, images
from apps.common.errors import BadInput
from apps.common.predictors import data_settings, in_batches
from apps.image_classification.config import Config
from apps.image_classification.data import load_split
from apps.image_classification.grad_cam import grad_cam
from apps.image_classification.signatures import load_model, load_run


def predict(
    inputs: Sequence[Path], model: str, top: int, explain: bool, figure: Path
) -> dict[str, np.ndarray]:
    """Prints the best classes of each image and draws the images with them.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The answers: `classes` and `scores`, both `(images, classes)`, best first.

    Raises:
        BadInput: The model or an image cannot be used.
    """
    if inputs:
        names = [str(path) for path in inputs]
        encoded_images = [images.read_image(path) for path in inputs]
    else:
        names, encoded_images = some_test_images(model)
    if explain and not (Path(model) / "model.keras").exists():
        raise BadInput(
            f"--explain needs gradients, which {model} does not have; pass the run "
            "directory of the training"
        )
    answers = in_batches(load_model(model), encoded_images)
    titles = []
    for name, classes, scores in zip(
        names, answers["classes"], answers["scores"], strict=True
    ):
        best = [
            f"{each.decode()} {score:.3f}"
            for each, score in zip(classes[:top], scores[:top], strict=True)
        ]
        print(f"{name}: {', '.join(best)}")
        titles.append("\n".join([Path(name).name, *best]))

    heat_maps = None
    if explain:
        classifier = load_run(Path(model))
        heat_maps = [grad_cam(classifier, encoded) for encoded in encoded_images]
    figures.draw_grid(encoded_images, titles, figure, heat_maps)
    print(f"figure: {figure}")
    return answers


def some_test_images(model, num_images=12):
    """Returns the names and bytes of a few images that the model was not trained on."""
    config, _, held_out = data_settings(Config, model)
    examples = load_split(config, "test", held_out=held_out)
    examples = datasets.evenly(examples, num_images)
    return examples.names, [examples.image_bytes(i) for i in range(len(examples))]
