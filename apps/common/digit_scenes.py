"""Handwritten digits and photographs, from which built-in data sets are drawn."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images


def materials(split: str) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns the digits and the photographs that make the scenes of a split.

    Training and testing have no digit and no part of a photograph in common.

    Args:
        split: `train` or `test`.

    Returns:
        scikit-learn's digits, float `(digits, 8, 8)`; their labels, int `(digits,)`;
        and a list of photographs, uint8 `(height, width, 3)`.
    """
    digits = load_digits()
    photographs = load_sample_images().images
    is_test = np.arange(len(digits.images)) % 5 == 0
    chosen = is_test if split == "test" else ~is_test
    columns = slice(480, None) if split == "test" else slice(480)
    backgrounds = [photograph[:, columns] for photograph in photographs]
    return digits.images[chosen], digits.target[chosen], backgrounds


def draw_splits(
    draw_scene: Callable[..., Any], num_scenes: int, seed: int
) -> dict[str, list[Any]]:
    """Draws the scenes of a data set.

    Args:
        draw_scene: Draws one scene, given a NumPy random generator and what `materials`
            returns.
        num_scenes: Number of scenes; 80 % are for training and 20 % for testing.
        seed: Seed of the drawing.

    Returns:
        A list of scenes for `train` and for `test`.
    """
    random = np.random.default_rng(seed)
    drawn = {}
    for split, fraction in (("train", 0.8), ("test", 0.2)):
        digits, labels, backgrounds = materials(split)
        drawn[split] = [
            draw_scene(random, digits, labels, backgrounds)
            for _ in range(round(fraction * num_scenes))
        ]
    return drawn


def crop_background(
    random: np.random.Generator, backgrounds: list[np.ndarray], size: int
) -> np.ndarray:
    """Returns a random square of a photograph, darkened, so that digits stand out.

    Args:
        random: A NumPy random generator.
        backgrounds: From `materials`.
        size: Height and width of the square in pixels.

    Returns:
        Float `(size, size, 3)`, from 0 to 153.
    """
    background = backgrounds[random.integers(len(backgrounds))]
    top = random.integers(background.shape[0] - size)
    left = random.integers(background.shape[1] - size)
    return background[top : top + size, left : left + size] * 0.6


def digit_ink(digit: np.ndarray, size: int, degrees: float = 0) -> np.ndarray:
    """Returns the pixels of an enlarged digit that have ink, bool `(size, size)`.

    Args:
        digit: Float `(8, 8)`, from 0 to 16.
        size: Height and width of the result in pixels.
        degrees: Angle by which the digit is turned, counterclockwise.
    """
    image = Image.fromarray(digit.astype("float32"))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image.rotate(degrees, Image.Resampling.BICUBIC)) > 7


def paint_digit(
    random: np.random.Generator, scene: np.ndarray, ink: np.ndarray, top: int, left: int
) -> None:
    """Paints a digit on a scene, in place, in a bright random colour.

    Args:
        random: A NumPy random generator.
        scene: From `crop_background`.
        ink: From `digit_ink`.
        top: Row of the scene where the digit begins.
        left: Column of the scene where the digit begins.
    """
    height, width = ink.shape
    scene[top : top + height, left : left + width][ink] = random.uniform(150, 255, 3)


def add_noise(random: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Returns a scene with the noise of a camera, uint8 `(size, size, 3)`."""
    scene = scene + random.normal(0, 8, scene.shape)
    return scene.clip(0, 255).astype("uint8")
