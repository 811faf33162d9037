"""Backbones, which turn images into features: pretrained ones and a small one."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

import layers
from apps.common.errors import BadInput, closest

Preprocessing = Callable[[Any], Any]


def load_backbone(
    name: str, input_shape: Sequence[int | None], weights: str | None
) -> tuple[Preprocessing, keras.Model]:
    """Returns the preprocessing and the model of a `keras.applications` backbone.

    Args:
        name: A model of `keras.applications`, such as `EfficientNetV2B0`; it is loaded
            without its top.
        input_shape: `(height, width, 3)`; height and width may be None.
        weights: `imagenet`, the path of a weights file, or None.

    Raises:
        BadInput: There is no such model, or its weights are missing or do not fit.
    """
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    if name not in names:
        names.append("small_resnet")
        raise BadInput(f"--backbone {name} is no known model{closest(name, names)}")
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise BadInput(
            f"--weights {weights} is no file; pass a weights file for {name} without "
            "its top, `imagenet` to download them, or None"
        )
    constructor = getattr(keras.applications, name)
    try:
        backbone = constructor(
            include_top=False, weights=weights, input_shape=input_shape
        )
    except Exception as error:
        if weights == "imagenet" and "URL fetch failure" in str(error):
            raise BadInput(
                f"the ImageNet weights of {name} could not be downloaded; pass "
                "--weights with the path of a weights file, or None to start from "
                "random ones"
            ) from error
        if isinstance(error, ValueError) and "input_shape" in str(error).lower():
            raise BadInput(
                f"--image-size {input_shape[0]} does not suit {name}: {error}"
            ) from error
        if weights not in (None, "imagenet"):
            raise BadInput(
                f"--weights {weights} does not fit {name} without its top; pass a "
                "weights file made for this architecture"
            ) from error
        raise
    module = importlib.import_module(constructor.__module__)
    return module.preprocess_input, backbone


def small_resnet(
    input_shape: Sequence[int | None],
    weights: str | None = None,
    filters: Sequence[int] = (32, 64, 128),
) -> tuple[Preprocessing, keras.Model]:
    """Returns the preprocessing and the model of a residual network for tiny images.

    Each stage after the first halves the resolution.

    Args:
        input_shape: `(height, width, 3)`; height and width may be None.
        weights: Must be None; the network is trained from scratch.
        filters: The channels of each stage.

    Raises:
        BadInput: Weights were given.

    Reference:
        [He et al., 2016](https://arxiv.org/abs/1512.03385), section 4.2
    """
    if weights:
        raise BadInput(
            "small_resnet is trained from scratch; add --weights None to "
            "--backbone small_resnet"
        )
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(filters[0], 3, padding="same", name="stem")(inputs)
    for stage, channels in enumerate(filters, start=1):
        strides = 1 if stage == 1 else 2
        x = layers.ResidualBlock(channels, strides, name=f"block_{stage}")(x)
    return scale_pixels, keras.Model(inputs, x)


def scale_pixels(pixels: Any) -> Any:
    """Scales pixels to the range from -1 to 1."""
    return pixels / 127.5 - 1


def set_trainable(backbone: keras.Model, fraction: float) -> None:
    """Chooses which layers of a pretrained backbone are trained.

    Batch normalization stays as it was pretrained: the statistics of a few small
    batches are worse than those of a million images.

    Args:
        backbone: The pretrained model.
        fraction: The fraction of its layers to train, counted from its end; 0 freezes
            the backbone.
    """
    start = round((1 - fraction) * len(backbone.layers))
    for i, layer in enumerate(backbone.layers):
        # Only `trainable` works: a functional model overrides `training=False`.
        is_normalization = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = i >= start and not is_normalization
