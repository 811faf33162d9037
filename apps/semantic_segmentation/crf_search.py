"""Searches the parameters of a run's CRF on its validation images."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from apps.common import datasets, runs
from apps.common.errors import BadInput
from apps.semantic_segmentation.config import Config, crf_settings
from apps.semantic_segmentation.data import load_examples, make_batches
from apps.semantic_segmentation.metrics import Agreement
from apps.semantic_segmentation.model import build_crf
from apps.semantic_segmentation.signatures import load_run

# The values of the grid search.
COARSE = {
    "appearance_weight": (1.0, 4.0),
    "position_sigma": (30.0, 80.0),
    "color_sigma": (4.0, 8.0, 12.0),
    "smoothness_weight": (0.5, 3.0),
}
# The factors of the steps after the grid search.
FINE = {
    "appearance_weight": 2.0,
    "position_sigma": 1.5,
    "color_sigma": 1.5,
    "smoothness_weight": 2.0,
}


def search(
    run: Path, max_images: int = 24, image_size: tuple[int, int] | None = None
) -> dict[str, float]:
    """Finds the CRF with the best mean IoU on a run's validation images.

    The arguments are the flags of the command, described in `__main__.py`. The
    parameters are written to `crf.json` in the run, which `load_run` reads. The number
    of iterations and the smoothness kernel's sigma stay as configured.

    Returns:
        The best parameters, by the names of `Config`.

    Raises:
        BadInput: The run has no trained model, no validation images, or a CRF that was
            trained end to end.

    Reference:
        [Chen et al., 2017](https://arxiv.org/abs/1606.00915), section 4.1
    """
    if not (run / "model.keras").exists():
        raise BadInput(f"--run {run} holds no trained model; run train first")
    config = runs.load_config(Config, run)
    config = replace(config, image_size=image_size or config.image_size)
    segmenter = load_run(run, config.image_size)
    if segmenter.is_crf_trained:
        raise BadInput(
            f"--run {run} trained its CRF end to end; search in a run without "
            "--crf-epochs"
        )
    examples = load_examples(config, runs.read_held_out(run))["validation"]
    if not len(examples):
        raise BadInput(
            f"--run {run} has no validation images; search in a run that has some, "
            "then train with the parameters found"
        )
    num_classes = len(examples.classes)
    batches = [
        (images, segmenter.network(images, training=False), masks)
        for images, masks in make_batches(datasets.evenly(examples, max_images), config)
    ]

    def measure(parameters):
        settings = {**crf_settings(config), **parameters}
        crf = build_crf(num_classes=num_classes, **settings)
        refine = tf.function(lambda logits, images: crf([logits, images]))
        return score(batches, num_classes, refine)

    without = score(batches, num_classes, lambda logits, images: logits)
    print(f"without CRF: {describe(without)}")
    parameters, metrics = find_best(measure)
    print(f"with CRF: {describe(metrics)}")
    parameters = {name: float(f"{value:.3g}") for name, value in parameters.items()}
    runs.write_json(run / "crf.json", parameters)
    return parameters


def find_best(measure):
    """Searches a coarse grid, then improves one parameter at a time.

    Each parameter in turn is divided and multiplied by its factor, until the mean IoU
    no longer improves.

    Args:
        measure: Function of the parameters by name; returns metrics by name.

    Returns:
        The best parameters, and their metrics.
    """
    results = {}

    def mean_iou(values):
        if values not in results:
            results[values] = measure(dict(zip(COARSE, values, strict=True)))
        return results[values]["mean_iou"]

    grid = list(itertools.product(*COARSE.values()))
    best, previous = max(tqdm(grid, "coarse", disable=None), key=mean_iou), None
    while best != previous:
        previous = best
        for i, factor in enumerate(tqdm(FINE.values(), "fine", disable=None)):
            neighbors = [
                (*best[:i], value, *best[i + 1 :])
                for value in (best[i] / factor, best[i] * factor)
            ]
            best = max([best, *neighbors], key=mean_iou)
    return dict(zip(COARSE, best, strict=True)), results[best]


def score(batches, num_classes, refine):
    """Returns the metrics of refined masks.

    Args:
        batches: Images, logits and masks.
        num_classes: Number of classes.
        refine: Function of logits and images; returns logits.
    """
    agreement = Agreement(num_classes)
    for images, logits, masks in batches:
        predictions = np.argmax(refine(logits, images), axis=-1)
        for mask, prediction in zip(masks.numpy(), predictions, strict=True):
            agreement.add(mask, prediction)
    return agreement.summary()


def describe(metrics):
    """Returns metrics as text, such as `mean_iou 0.6510`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
