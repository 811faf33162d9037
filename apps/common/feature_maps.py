"""Encoders: backbones that return feature maps of several resolutions."""

from typing import Any

import keras

from apps.common import backbones
from apps.common.backbones import Preprocessing
from apps.common.errors import BadInput, closest

# Layers of each backbone whose outputs are used, by stride.
LAYERS = {
    "MobileNetV2": {
        4: "block_3_expand_relu",
        8: "block_6_expand_relu",
        16: "block_13_expand_relu",
        32: "block_16_project_BN",
    },
    "EfficientNetLite0": {
        4: "block3_expand_relu",
        8: "block5_expand_relu",
        16: "block11_expand_relu",
        32: "block15_project_bn",
    },
    "small_resnet": {2: "block_2", 4: "block_3", 8: "block_4"},
}


def load_encoder(
    name: str, weights: str | None, is_dilated: bool = False, min_stride: int = 1
) -> tuple[Preprocessing, keras.Model, list[int]]:
    """Returns a backbone as an encoder.

    Args:
        name: `MobileNetV2`, `EfficientNetLite0`, `small_resnet`, or `hub:NAME` with a
            preset of KerasHub that has pyramid outputs.
        weights: As for `backbones.load_backbone`.
        is_dilated: Whether to `dilate` a backbone with depthwise convolutions. Presets
            of KerasHub keep their strides. Defaults to False.
        min_stride: The smallest stride of a feature map. Defaults to 1, all.

    Returns:
        The preprocessing, a function of pixels from 0 to 255; a model with a list of
        feature maps, each with half the resolution of the one before; and the stride of
        each.

    Raises:
        BadInput: There is no such backbone, or the weights are missing or do not fit.
    """
    shape = (None, None, 3)
    names = LAYERS.get(name)
    if name.startswith(backbones.HUB):
        preprocess, network = backbones.load_hub_backbone(name, shape, weights)
        maps = _pyramid_outputs(name, network)
    elif name == "small_resnet":
        filters = (16, 32, 64, 128)
        preprocess, network = backbones.small_resnet(shape, weights, filters)
        maps = _layer_outputs(network, names)
    elif names:
        preprocess, network = backbones.load_backbone(name, shape, weights)
        if is_dilated:
            network = dilate(network)
            names = {4: names[4], 8: names[8], 16: names[32]}
        maps = _layer_outputs(network, names)
    else:
        raise BadInput(
            f"--backbone {name} has no feature maps of several resolutions"
            f"{closest(name, [*LAYERS, 'hub:NAME'])}"
        )
    strides = [stride for stride in maps if stride >= min_stride]
    outputs = [maps[stride] for stride in strides]
    encoder = keras.Model(network.input, outputs, name="backbone")
    return preprocess, encoder, strides


def _layer_outputs(network, names):
    """Returns the outputs of some layers by stride; `names` has their names."""
    return {stride: network.get_layer(name).output for stride, name in names.items()}


def _pyramid_outputs(name, backbone):
    """Returns the pyramid outputs of a KerasHub backbone by stride, from 4 to 32."""
    maps = getattr(backbone, "pyramid_outputs", {})
    levels = [level for level in range(2, 6) if f"P{level}" in maps]
    if len(levels) < 2:
        raise BadInput(
            f"--backbone {name} has no pyramid outputs; choose another one, such as "
            "hub:resnet_18_imagenet"
        )
    return {2**level: maps[f"P{level}"] for level in levels}


def dilate(backbone: keras.Model) -> keras.Model:
    """Returns a backbone whose last stage has stride 16 instead of 32.

    The last depthwise convolution with strides gets stride 1, and the depthwise
    convolutions after it are dilated by 2. The weights stay the same.

    Args:
        backbone: A MobileNetV2 or an EfficientNetLite0.

    Reference:
        [Chen et al., 2017](https://arxiv.org/abs/1606.00915), section 3.1
    """
    convolutions = [
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    ]
    last = max(i for i, layer in enumerate(convolutions) if max(layer.strides) > 1)
    strided, deeper = convolutions[last], convolutions[last + 1 :]
    before = backbone.layers[backbone.layers.index(strided) - 1]

    def clone(layer):
        settings = layer.get_config()
        if layer is strided:
            settings.update(strides=(1, 1), padding="same")
        elif layer in deeper:
            settings["dilation_rate"] = (2, 2)
        elif layer is before and isinstance(layer, keras.layers.ZeroPadding2D):
            settings["padding"] = ((0, 0), (0, 0))
        return type(layer).from_config(settings)

    dilated = keras.models.clone_model(backbone, clone_function=clone)
    dilated.set_weights(backbone.get_weights())
    return dilated


def convolve(x: Any, filters: int, size: int, name: str) -> Any:
    """Applies a convolution, batch normalization and ReLU to a feature map.

    Args:
        x: `(batch, height, width, channels)`.
        filters: Channels of the result.
        size: Height and width of the kernel.
        name: Name of the convolution, and prefix of the names of the other layers.
    """
    x = keras.layers.Conv2D(
        filters,
        size,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    # Keras' default momentum of 0.99 is too slow for the few steps of small data sets.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_normalization")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
