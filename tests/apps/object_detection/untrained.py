"""Models of discs and boxes that need no training."""

import keras
import numpy as np

from apps.common import runs
from apps.object_detection.model import build_model
from tests.apps.object_detection.shapes import CLASSES

# The layers before the logits and the deltas.
LAST_LAYERS = {"head_classes_0", "head_classes_1", "class_logits", "deltas"}


def random_network(model="one_stage"):
    """Returns a network whose scores differ from point to point."""
    keras.utils.set_random_seed(0)
    network = build_model(
        num_classes=2,
        model=model,
        backbone="small_resnet",
        weights=None,
        filters=16,
        num_bins=8,
    )
    # Before training, all scores are nearly equal.
    heads = [each for each in network.layers if each.name == "box_head"]
    for layer in [*network.layers, *(each for head in heads for each in head.layers)]:
        if layer.name in LAST_LAYERS:
            kernel, bias = layer.get_weights()
            layer.set_weights([3 * kernel, np.zeros_like(bias)])
    return network


def write_run(run, config, network):
    """Writes the run of a training that ended with this network."""
    runs.start(config, run, {})
    runs.write_json(run / "classes.json", CLASSES)
    network.save(run / "model.keras")
