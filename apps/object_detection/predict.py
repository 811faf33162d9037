"""Detects objects in images: answers on the screen, and a figure of them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, figures, images, runs
from apps.common.predictors import about, data_settings, in_batches
from apps.object_detection.config import Config
from apps.object_detection.data import load_split
from apps.object_detection.metrics import detections
from apps.object_detection.signatures import BATCH_SIZE, load_model, read_confidence

MAX_DRAWN = 24  # Images in the figure.


def predict(
    inputs: Sequence[Path],
    model: str,
    confidence: float | None,
    results: Path | None,
    figure: Path,
) -> dict[str, np.ndarray]:
    """Prints how many objects each image has, and draws their boxes.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The answers: `boxes`, `classes`, `scores` and `num_detections`.

    Raises:
        BadInput: The model or an image cannot be used.
    """
    if confidence is None:
        confidence = read_confidence(model)
    predictor = load_model(model)
    if inputs:
        names, files = images.find_images(inputs)
        answers = in_batches(predictor, map(images.read_image, files), BATCH_SIZE)
        first_images = [path.read_bytes() for path in files[:MAX_DRAWN]]
    else:
        names, first_images = some_test_images(model)
        answers = in_batches(predictor, first_images, BATCH_SIZE)

    classes = read_classes(model, answers)
    colors = figures.class_colors([None] * len(classes))
    panels = []
    for i, name in enumerate(names):
        found = detections(answers, i, classes)
        num_shown = int((found.scores >= confidence).sum())
        labels = [classes[number] for number in found.classes[:num_shown]]
        counts = [f"{number} {label}" for label, number in Counter(labels).items()]
        print(f"{name}: {', '.join(counts) or 'nothing'}")
        if i < len(first_images):
            texts = [
                f"{label} {score:.2f}"
                for label, score in zip(labels, found.scores, strict=False)
            ]
            panel = figures.Boxes(
                Path(name).name,
                first_images[i],
                found.boxes[:num_shown],
                texts,
                colors[found.classes[:num_shown]],
            )
            panels.append(panel)
    if results:
        write_results(results, names, answers, classes)
        print(f"results: {results}")
    figures.draw_boxes(panels, figure)
    print(f"figure: {figure}")
    return answers


def read_classes(model, answers):
    """Returns the names of the classes of a model.

    Args:
        model: As `predictors.load_predictor` takes it.
        answers: Its answers. They name the classes of a model that records nothing.
    """
    if description := about(model):
        return description["classes"]
    return sorted(name.decode() for name in set(answers["classes"].flat) if name)


def write_results(path, names, answers, classes):
    """Writes all boxes as COCO's format of results describes them.

    It is a JSON list with an object for each box: `image_id`, the position of the image
    from 1; `category_id`, that of the class; `bbox`, x, y, width and height in pixels;
    and `score`. Besides, `file_name` and `category_name`.

    Args:
        path: The file to write.
        names: The names of the images.
        answers: The answers of a predictor to all of them.
        classes: The names of the classes.
    """
    results = []
    for i, name in enumerate(names):
        found = detections(answers, i, classes)
        for box, number, score in zip(*found, strict=True):
            x1, y1, x2, y2 = map(float, box)
            result = {
                "image_id": i + 1,
                "file_name": name,
                "category_id": int(number) + 1,
                "category_name": classes[number],
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(float(score), 5),
            }
            results.append(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_bytes(path, json.dumps(results, ensure_ascii=False).encode())


def some_test_images(model, num_images=6):
    """Returns the names and bytes of a few images that the model was not trained on."""
    config, _, held_out = data_settings(Config, model)
    examples = load_split(config, "test", held_out=held_out)
    examples = datasets.evenly(examples, num_images)
    return examples.names, [examples.image_bytes(i) for i in range(len(examples))]
