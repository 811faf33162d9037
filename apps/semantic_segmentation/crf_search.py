"""Searches the parameters of a run's CRF on images that its network never saw."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from apps.common import runs
from apps.common.errors import BadInput
from apps.semantic_segmentation.config import Config
from apps.semantic_segmentation.data import VOID, load_examples, make_batches
from apps.semantic_segmentation.metrics import Agreement
from apps.semantic_segmentation.model import load_segmenter, make_crf

COARSE = {
    "appearance_weight": (1.0, 4.0),
    "position_sigma": (30.0, 80.0),
    "color_sigma": (4.0, 8.0, 12.0),
    "smoothness_weight": (0.5, 3.0),
}
FINE = {
    "appearance_weight": 2.0,
    "position_sigma": 1.5,
    "color_sigma": 1.5,
    "smoothness_weight": 2.0,
}


def search(run: Path, most_images=24, image_size=None):
    """Finds the CRF that gives the best mean IoU on a run's validation images.

    First a coarse grid; then, from the best of it, each parameter in turn is made
    smaller and larger by a factor, as long as that helps. The reach of the smoothness
    kernel and the number of iterations stay as configured. The result is kept in the
    run as `crf.json`, which evaluation and export read.

    Args:
        run: A run directory whose training held out validation images.
        most_images: How many of them to use, evenly chosen.
        image_size: Height and width of the input, as for `export`. Defaults to those
            of the training.

    Returns:
        The best parameters, by the names of `Config`.

    Raises:
        BadInput: The run holds no model, or held out no images.

    Reference:
        [Chen et al., 2017](https://arxiv.org/abs/1606.00915), section 4.1
    """
    if not (run / "model.keras").exists():
        raise BadInput(f"--run {run} holds no trained model; run train first")
    if most_images < 1:
        raise BadInput("--images must be 1 or more")
    segmenter = load_segmenter(run, image_size)
    if segmenter.trained_crf:
        raise BadInput(
            f"--run {run} trained its CRF end to end; search in a run without "
            "--crf-epochs"
        )
    config = runs.load_config(Config, run)
    config = replace(config, image_size=segmenter.image_size)
    splits, classes = load_examples(config)
    held_out = splits["validation"]
    if not len(held_out):
        raise BadInput(
            f"--run {run} held out no images; search in a run that did, and give what "
            "is found to train"
        )
    chosen = np.linspace(0, len(held_out) - 1, min(most_images, len(held_out)))
    held_out = held_out[np.unique(chosen.astype(int))]
    batches = [
        (
            images,
            segmenter.network(images, training=False),
            masks.numpy().astype("uint8"),
        )
        for images, masks in make_batches(held_out, config)
    ]
    without = agreement(batches, len(classes))
    print(f"without CRF: {describe(without)}")

    def score(values):
        crf = make_crf(config, **dict(zip(COARSE, values, strict=True)))
        refine = tf.function(lambda images, logits: crf([logits, images]))
        return agreement(batches, len(classes), refine)

    def mean_iou(values):
        return results[values]["mean_iou"]

    grid = list(itertools.product(*COARSE.values()))
    results = {values: score(values) for values in tqdm(grid, "coarse")}
    best, before = max(results, key=mean_iou), None
    while best != before:
        before = best
        for i, factor in enumerate(tqdm(FINE.values(), "fine")):
            for value in (best[i] / factor, best[i] * factor):
                values = (*best[:i], value, *best[i + 1 :])
                if values not in results:
                    results[values] = score(values)
            best = max(results, key=mean_iou)
    print(f"with CRF: {describe(results[best])}")
    settings = {
        name: float(f"{value:.3g}") for name, value in zip(COARSE, best, strict=True)
    }
    runs.write_json(run / "crf.json", settings)
    return settings


def agreement(batches, num_classes, refine=None):
    """Returns the metrics of the network's masks, refined or not."""
    total = Agreement(num_classes, VOID)
    for images, logits, masks in batches:
        refined = refine(images, logits) if refine else logits
        for mask, answer in zip(masks, refined.numpy().argmax(axis=-1), strict=True):
            total.add(mask, answer)
    return total.summary()


def describe(metrics):
    """Returns the metrics as text."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
