"""Segments images: answers on the screen, and a picture of them."""

import json
from pathlib import Path

import numpy as np

from apps.common import images, pictures
from apps.common.errors import BadInput
from apps.common.predictors import in_batches, training_config
from apps.semantic_segmentation.config import Config, class_color, class_name
from apps.semantic_segmentation.data import decode_mask, load_split
from apps.semantic_segmentation.model import BATCH, load_model


def predict(inputs, model, crf=True, masks=None, picture=None):
    """Prints which classes each image shows and draws them over it.

    Args:
        inputs: Paths of images. Without any, a few test images of the data that the
            model was trained on.
        model: Where the model is, as `predictors.load_predictor` takes it.
        crf: Whether to show the masks refined by the CRF beside the plain ones.
        masks: A folder to write the masks to, PNG files of class numbers; the refined
            ones if there are any.
        picture: The PNG file to draw. Defaults to
            `runs/semantic_segmentation/predictions.png`.

    Returns:
        The answers: `mask_bytes`, `classes` and `shares`; the refined ones if there
        are any.

    Raises:
        BadInput: The model or an image cannot be used.
    """
    if inputs:
        encoded_images = [images.read_image(path) for path in inputs]
    else:
        inputs, encoded_images = some_test_images(model)
    if masks:
        files = [masks / f"{Path(path).stem}.png" for path in inputs]
        taken = {Path(path).resolve() for path in inputs}
        if len(set(files)) < len(files) or taken & {file.resolve() for file in files}:
            raise BadInput(
                f"--masks {masks}: a mask would replace an image, or another mask of "
                "the same name; pass another folder, or fewer images"
            )
    titles = {"serving_default": "without CRF", "with_crf": "with CRF"}
    if not crf:
        del titles["with_crf"]
    columns = []
    for signature in titles:
        predictor = load_model(model, signature)
        columns.append(in_batches(predictor, encoded_images, BATCH))
    answers = columns[-1]

    for path, names, shares in zip(
        inputs, answers["classes"], answers["shares"], strict=True
    ):
        present = [
            f"{names[i].decode()} {shares[i]:.1%}"
            for i in np.argsort(-shares)
            if names[i]
        ]
        print(f"{path}: {', '.join(present)}")
    if masks:
        masks.mkdir(parents=True, exist_ok=True)
        for file, mask_bytes in zip(files, answers["mask_bytes"], strict=True):
            file.write_bytes(mask_bytes)
        print(f"masks: {masks}")

    names, colors = names_and_colors(model, answers["classes"])
    rows = []
    for i, encoded in enumerate(encoded_images):
        drawn = [
            pictures.overlay(encoded, decode_mask(column["mask_bytes"][i]), colors)
            for column in columns
        ]
        rows.append((Path(inputs[i]).name, [pictures.thumbnail(encoded), *drawn]))
    present = answers["classes"].astype(bool).any(axis=0)
    legend = [
        (name, color)
        for name, color, shown in zip(names, colors, present, strict=True)
        if shown
    ]
    picture = picture or Path("runs/semantic_segmentation/predictions.png")
    pictures.draw_rows(rows, picture, ["image", *titles.values()], legend)
    print(f"picture: {picture}")
    return answers


def names_and_colors(model, answered):
    """Returns the name and the colour of each class.

    Args:
        model: Where the model is. A run, an export and a bundle tell the colours.
        answered: The `classes` that it answered, from which other models' names come.
    """
    path = Path(model)
    folder = path.parent if path.suffix == ".tflite" else path
    if (path / "classes.json").exists():
        classes = json.loads((path / "classes.json").read_text())
    elif (folder.parent / "card.json").exists():
        classes = json.loads((folder.parent / "card.json").read_text())["classes"]
    else:
        classes = [max(column).decode() for column in answered.T]
    colors = pictures.class_colors([class_color(line) for line in classes])
    return [class_name(line) for line in classes], colors


def some_test_images(model, number=4):
    """Returns the names and bytes of a few images that the model was not trained on."""
    examples, _ = load_split(training_config(Config, model), "test")
    step = max(1, len(examples) // number)
    chosen = range(0, len(examples), step)[:number]
    return [examples.names[i] for i in chosen], [
        examples.image_bytes(i) for i in chosen
    ]
