"""Networks that label every pixel, and the CRF that refines their logits."""

import keras

import layers
from apps.common.feature_maps import convolve, load_encoder


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
    is_deeplab = architecture == "deeplab"
    preprocess, encoder, strides = load_encoder(
        backbone, weights, is_dilated=is_deeplab
    )
    decode = decode_deeplab if is_deeplab else decode_fcn
    x = decode(encoder(preprocess(inputs)), num_classes, dropout)
    x = keras.layers.UpSampling2D(strides[0], interpolation="bilinear", name="full")(x)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=architecture)


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
