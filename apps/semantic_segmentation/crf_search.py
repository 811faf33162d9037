"""Searches the parameters of a run's CRF on images that its network never saw."""

import itertools
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
    "appearance_weight": (2.0, 4.0, 6.0),
    "position_sigma": (30.0, 60.0, 90.0),
    "color_sigma": (4.0, 8.0, 12.0),
}
FINE = {"appearance_weight": 1.0, "position_sigma": 15.0, "color_sigma": 2.0}


def search(run: Path, most_images=24):
    """Finds the CRF that gives the best mean IoU on a run's validation images.

    First a coarse grid, then a fine one around the best. The smoothness kernel and the
    number of iterations stay as configured. The result is kept in the run as
    `crf.json`, which evaluation and export read.

    Args:
        run: A run directory whose training held out validation images.
        most_images: How many of them to use, evenly chosen.

    Returns:
        The best parameters, by the names of `Config`.

    Raises:
        BadInput: The run holds no model, or held out no images.

    Reference:
        [Chen et al., 2017](https://arxiv.org/abs/1606.00915), section 4.1
    """
    if not (run / "model.keras").exists():
        raise BadInput(f"--run {run} holds no trained model; run train first")
    config = runs.load_config(Config, run)
    splits, classes = load_examples(config)
    held_out = splits["validation"]
    if not len(held_out):
        raise BadInput(
            f"--run {run} held out no images; search in a run that did, and give what "
            "is found to train"
        )
    chosen = np.linspace(0, len(held_out) - 1, min(most_images, len(held_out)))
    held_out = held_out[np.unique(chosen.astype(int))]
    network = load_segmenter(run).network
    batches = [
        (images, network(images, training=False), masks.numpy().astype("uint8"))
        for images, masks in make_batches(held_out, config)
    ]
    without = agreement(batches, len(classes))
    print(f"without CRF: {describe(without)}")

    results = {}
    grid = list(itertools.product(*COARSE.values()))
    for stage in ("coarse", "fine"):
        for values in tqdm([each for each in grid if each not in results], stage):
            settings = dict(zip(COARSE, values, strict=True))
            crf = make_crf(config, **settings)
            refine = tf.function(lambda images, logits, crf=crf: crf([logits, images]))
            results[values] = agreement(batches, len(classes), refine)
        best = max(results, key=lambda values: results[values]["mean_iou"])
        print(f"best, {stage}: {dict(zip(COARSE, best, strict=True))}")
        print(f"  {describe(results[best])}")
        around = [
            [max(step / 2, value + k * step) for k in (-1, 0, 1)]
            for value, step in zip(best, FINE.values(), strict=True)
        ]
        grid = list(itertools.product(*around))
    settings = dict(zip(COARSE, best, strict=True))
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
