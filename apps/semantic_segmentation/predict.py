"""Segments images: answers on the screen, and a figure of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, figures, images, runs
from apps.common.predictors import about, data_settings, in_batches
from apps.semantic_segmentation.config import Config, class_color, class_name
from apps.semantic_segmentation.data import decode_mask, load_split
from apps.semantic_segmentation.signatures import BATCH_SIZE, load_model


def predict(
    inputs: Sequence[Path], model: str, crf: bool, masks: Path | None, figure: Path
) -> dict[str, np.ndarray]:
    """Prints the classes in each image and draws the masks over it.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The answers: `mask_bytes`, `classes` and `pixel_fractions`, refined by the CRF
        if `crf` is true.

    Raises:
        BadInput: The model, an image or the folder for the masks cannot be used.
    """
    if inputs:
        names = [str(path) for path in inputs]
        encoded_images = [images.read_image(path) for path in inputs]
    else:
        names, encoded_images = some_test_images(model)
    if masks:
        mask_paths = images.name_outputs("--masks", masks, names)
    signatures = {"without CRF": "serving_default"}
    if crf:
        signatures["with CRF"] = "with_crf"
    columns = [
        in_batches(load_model(model, signature), encoded_images, BATCH_SIZE)
        for signature in signatures.values()
    ]
    answers = columns[-1]

    for name, class_names, fractions in zip(
        names, answers["classes"], answers["pixel_fractions"], strict=True
    ):
        present = [
            f"{class_names[i].decode()} {fractions[i]:.1%}"
            for i in np.argsort(-fractions)
            if class_names[i]
        ]
        print(f"{name}: {', '.join(present)}")
    if masks:
        masks.mkdir(parents=True, exist_ok=True)
        for path, mask_bytes in zip(mask_paths, answers["mask_bytes"], strict=True):
            runs.write_bytes(path, mask_bytes)
        print(f"masks: {masks}")

    classes = read_classes(model, answers["classes"])
    colors = figures.class_colors([class_color(each) for each in classes])
    rows = []
    for i, encoded in enumerate(encoded_images):
        predictions = [decode_mask(column["mask_bytes"][i]) for column in columns]
        overlays = [figures.overlay(encoded, mask, colors) for mask in predictions]
        rows.append((Path(names[i]).name, [figures.thumbnail(encoded), *overlays]))
    is_present = (answers["classes"] != b"").any(axis=0)
    legend = [(class_name(classes[i]), colors[i]) for i in np.flatnonzero(is_present)]
    figures.draw_rows(rows, figure, ["image", *signatures], legend)
    print(f"figure: {figure}")
    return answers


def read_classes(model, answered):
    """Returns the classes of a model, with their colours if the model records them.

    Args:
        model: As `predictors.load_predictor` takes it.
        answered: The `classes` of its answers. They name the classes of a model that
            records nothing.
    """
    if description := about(model):
        return description["classes"]
    return [max(column).decode() for column in answered.T]


def some_test_images(model, num_images=4):
    """Returns the names and bytes of a few images that the model was not trained on."""
    config, _, held_out = data_settings(Config, model)
    examples = load_split(config, "test", held_out=held_out)
    examples = datasets.evenly(examples, num_images)
    return examples.names, [examples.image_bytes(i) for i in range(len(examples))]
