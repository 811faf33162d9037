"""Networks that label every pixel, and the CRF that refines their logits."""

import keras

import layers
from apps.common import backbones
from apps.common.errors import BadInput, closest

# Layers of each backbone whose outputs the decoders use, by stride.
FEATURES = {
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


def build_model(*, num_classes, architecture, backbone, weights, dropout):
    """Builds a segmentation network.

    Args:
        num_classes: Number of classes.
        architecture: `deeplab` or `fcn`.
        backbone: `MobileNetV2`, `EfficientNetLite0`, `small_resnet`, or `hub:NAME` with
            a preset of KerasHub that has pyramid outputs.
        weights: Weights of the backbone: `imagenet`, the path of a weights file or of
            a folder that holds it, or None for random weights.
        dropout: Dropout rate before the decoder.

    Returns:
        A model from `images`, float32 `(batch, height, width, 3)` from 0 to 255, to
        `logits`, float32 `(batch, height, width, num_classes)`. Height and width must
        be multiples of 32.

    Raises:
        BadInput: There is no such backbone, or the weights are missing or do not fit.
    """
    inputs = keras.Input((None, None, 3), name="images")
    preprocess, encoder, stride = build_encoder(
        backbone=backbone, weights=weights, atrous=architecture == "deeplab"
    )
    decode = decode_deeplab if architecture == "deeplab" else decode_fcn
    x = decode(encoder(preprocess(inputs)), num_classes, dropout)
    x = keras.layers.UpSampling2D(stride, interpolation="bilinear", name="full")(x)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=architecture)


def build_encoder(*, backbone, weights, atrous):
    """Returns the preprocessing of a backbone, and the backbone as an encoder.

    Args:
        backbone: As for `build_model`.
        weights: As for `build_model`.
        atrous: Whether to replace the last stride of a backbone with depthwise
            convolutions by dilated ones, so that its deepest features have stride 16
            instead of 32. Presets of KerasHub keep their strides.

    Returns:
        A function of images; a model with several feature maps as outputs, each with
        half the resolution of the one before; and the stride of the first one.
    """
    shape = (None, None, 3)
    names = FEATURES.get(backbone)
    if backbone.startswith(backbones.HUB):
        preprocess, network = backbones.load_hub_backbone(backbone, shape, weights)
        features = pyramid(backbone, network)
    elif backbone == "small_resnet":
        filters = (16, 32, 64, 128)
        preprocess, network = backbones.small_resnet(shape, weights, filters)
        features = layer_outputs(network, names)
    elif names:
        preprocess, network = backbones.load_backbone(backbone, shape, weights)
        if atrous:
            network = dilate(network)
            names = {4: names[4], 8: names[8], 16: names[32]}
        features = layer_outputs(network, names)
    else:
        raise BadInput(
            f"--backbone {backbone} is no encoder of a segmenter"
            f"{closest(backbone, [*FEATURES, 'hub:NAME'])}"
        )
    encoder = keras.Model(network.input, list(features.values()), name="backbone")
    return preprocess, encoder, min(features)


def layer_outputs(network, names):
    """Returns the outputs of some layers by stride; `names` has their names."""
    return {stride: network.get_layer(name).output for stride, name in names.items()}


def pyramid(name, backbone):
    """Returns the pyramid outputs of a KerasHub backbone by stride, from 4 to 32.

    Raises:
        BadInput: It has none.
    """
    maps = getattr(backbone, "pyramid_outputs", {})
    levels = [level for level in range(2, 6) if f"P{level}" in maps]
    features = {2**level: maps[f"P{level}"] for level in levels}
    if len(features) < 2:
        raise BadInput(
            f"--backbone {name} has no pyramid outputs, which a segmenter needs; "
            "choose another one, such as hub:resnet_18_imagenet"
        )
    return features


def dilate(backbone):
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


def decode_deeplab(features, num_classes, dropout, filters=(96, 128, 256)):
    """Applies the decoder of DeepLab v3+: a pyramid, refined by finer features.

    Unlike the paper's, this decoder uses all finer feature maps, which helps with thin
    objects.

    Args:
        features: Up to four feature maps, each with half the resolution of the one
            before.
        num_classes: Number of classes.
        dropout: Dropout rate of the pyramid.
        filters: Channels at each of the resolutions.

    Returns:
        Class scores at the resolution of the first feature map.

    Reference:
        [Chen et al., 2018](https://arxiv.org/abs/1802.02611), figure 2
    """
    *finer_maps, deepest = features
    x = layers.AtrousSpatialPyramidPooling(
        filters[-1], rates=(3, 6, 12), dropout=dropout, name="pyramid"
    )(deepest)
    for level in reversed(range(len(finer_maps))):
        finer = convolve(finer_maps[level], 48, 1, f"skip_{level}")
        x = keras.layers.UpSampling2D(interpolation="bilinear", name=f"up_{level}")(x)
        x = keras.layers.Concatenate(name=f"join_{level}")([x, finer])
        x = convolve(x, filters[level], 3, f"decode_{level}")
    return keras.layers.Conv2D(num_classes, 1, name="scores")(x)


def decode_fcn(features, num_classes, dropout):
    """Applies the decoder of FCN-8s: adds the scores of the three deepest features.

    Args:
        features: Feature maps, each with half the resolution of the one before.
        num_classes: Number of classes.
        dropout: Dropout rate of the deepest features.

    Returns:
        Class scores at the resolution of the first feature map.

    Reference:
        [Long et al., 2015](https://arxiv.org/abs/1411.4038), figure 3
    """
    *finer_maps, deepest = features
    x = keras.layers.Dropout(dropout, name="dropout")(deepest)
    x = keras.layers.Conv2D(num_classes, 1, name="scores")(x)
    for level in reversed(range(len(finer_maps))):
        x = keras.layers.Conv2DTranspose(
            num_classes, 4, 2, padding="same", use_bias=False, name=f"up_{level}"
        )(x)
        if len(features) - level <= 3:
            finer = keras.layers.Conv2D(num_classes, 1, name=f"scores_{level}")(
                finer_maps[level]
            )
            x = keras.layers.Add(name=f"sum_{level}")([x, finer])
    return x


def convolve(x, filters, size, name):
    """Applies a convolution, batch normalization and ReLU."""
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


def build_crf(*, num_classes, **settings):
    """Builds a CRF that refines logits.

    Args:
        num_classes: Number of classes.
        **settings: Arguments of `layers.DenseCRF`, such as from `config.crf_settings`.
    """
    crf = layers.DenseCRF(**{"name": "crf", "dtype": "float32", **settings})
    crf.build([(None, None, None, num_classes), (None, None, None, 3)])
    return crf


def add_crf(model, crf):
    """Returns a model whose logits the CRF refines, to train both end to end.

    Reference:
        [Zheng et al., 2015](https://arxiv.org/abs/1502.03240)
    """
    return keras.Model(model.input, crf([model.output, model.input]), name="with_crf")


def to_windowed(crf):
    """Returns a CRF with the same weights and the `windowed` method, for devices."""
    settings = {**crf.get_config(), "method": "windowed"}
    windowed = build_crf(num_classes=crf.support.shape[0], **settings)
    windowed.set_weights(crf.get_weights())
    return windowed
