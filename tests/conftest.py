"""What many tests start from: made-up images, a command line, a trained run."""

import os
import runpy
import sys

# Before TensorFlow or Keras is imported.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import pytest
from PIL import Image


def picture(color, seed, size=(40, 30)):
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).normal(0, 40, (size[1], size[0], 3))
    return Image.fromarray((np.array(color) + noise).clip(0, 255).astype("uint8"))


COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Class folders as people have them: 3 classes × 8 small JPEGs."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for label, (name, color) in enumerate(COLORS.items()):
        (root / name).mkdir(parents=True)
        for i in range(8):
            path = root / name / f"{name}_{i}.jpg"
            picture(color, 10 * label + i).save(path, quality=92)
    return root


def run_command(application, *arguments):
    """Runs `python -m apps.APPLICATION ARGUMENTS` in this process.

    Returns the exit status; what it prints is for `capsys`.
    """
    before = sys.argv
    sys.argv = [application, *map(str, arguments)]
    try:
        runpy.run_module(f"apps.{application}", run_name="__main__", alter_sys=False)
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before
    return 0
