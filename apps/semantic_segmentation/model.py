"""From images to a class for every pixel, and from encoded images to masks."""

import dataclasses
import json
from pathlib import Path

import keras
import tensorflow as tf

import layers
from apps.common import backbones, images, runs
from apps.common.predictors import load_predictor
from apps.semantic_segmentation.config import CRF_SETTINGS, Config, class_name

CRF_WEIGHTS = ["appearance", "smoothness", "support"]  # Variables of the CRF.
BATCH = 8  # Images that a model is asked about at once.
# Layers of each encoder whose features decoders read, by stride.
FEATURES = {
    "MobileNetV2": {
        4: "block_3_expand_relu",
        8: "block_6_expand_relu",
        16: "block_13_expand_relu",
        32: "block_16_project_BN",
    },
    "small_resnet": {2: "block_2", 4: "block_3", 8: "block_4"},
}


def build_model(
    num_classes,
    model="deeplab",
    backbone="MobileNetV2",
    weights="imagenet",
    dropout=0.1,
):
    """Builds a network that labels every pixel.

    Args:
        num_classes: Number of classes.
        model: `deeplab` or `fcn`.
        backbone: `MobileNetV2` or `small_resnet`.
        weights: `imagenet`, the path of a weights file, or None for random weights.
        dropout: Share of the features dropped before the decoder.

    Returns:
        A model from `images`, float32 `(batch, height, width, 3)` from 0 to 255 with
        multiples of 32 as height and width, to `logits`, float32 `(batch, height,
        width, num_classes)`.

    Raises:
        BadInput: The weights are missing or do not fit.
    """
    inputs = keras.Input((None, None, 3), name="images")
    preprocess, encoder = load_encoder(backbone, weights, atrous=model == "deeplab")
    decode = deeplab_decoder if model == "deeplab" else fcn_decoder
    x = decode(encoder(preprocess(inputs)), num_classes, dropout)
    x = keras.layers.UpSampling2D(
        min(FEATURES[backbone]), interpolation="bilinear", name="full"
    )(x)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=model)


def load_encoder(name, weights, atrous):
    """Returns the preprocessing, and a model that gives features of several strides.

    Args:
        name: `MobileNetV2` or `small_resnet`.
        weights: As for `build_model`.
        atrous: Whether the deepest features of MobileNetV2 have stride 16 instead of
            32, by dilated convolutions that see as far.

    Returns:
        A function of pixels, and a model whose outputs halve the resolution each.
    """
    taken = FEATURES[name]
    if name == "small_resnet":
        preprocess, encoder = backbones.small_resnet(
            (None, None, 3), weights, filters=(16, 32, 64, 128)
        )
    else:
        preprocess, encoder = backbones.load_backbone(name, (None, None, 3), weights)
        if atrous:
            encoder = dilate(encoder)
            taken = {4: taken[4], 8: taken[8], 16: taken[32]}
    outputs = [encoder.get_layer(layer).output for layer in taken.values()]
    return preprocess, keras.Model(encoder.input, outputs, name="backbone")


def dilate(mobilenet):
    """Returns a MobileNetV2 whose last stage has stride 16 instead of 32.

    Its first depthwise convolution loses its stride, the following ones look twice as
    far; all weights stay.

    Reference:
        [Chen et al., 2017](https://arxiv.org/abs/1606.00915), section 3.1
    """
    followers = {f"block_{block}_depthwise" for block in (14, 15, 16)}

    def clone(layer):
        settings = layer.get_config()
        if layer.name == "block_13_pad":
            settings["padding"] = ((0, 0), (0, 0))
        elif layer.name == "block_13_depthwise":
            settings.update(strides=(1, 1), padding="same")
        elif layer.name in followers:
            settings["dilation_rate"] = (2, 2)
        return type(layer).from_config(settings)

    dilated = keras.models.clone_model(mobilenet, clone_function=clone)
    dilated.set_weights(mobilenet.get_weights())
    return dilated


def deeplab_decoder(features, num_classes, dropout, filters=(96, 128, 256)):
    """Pools context at several scales, then sharpens it by finer features.

    Args:
        features: Three feature maps, each of half the resolution of the one before.
        num_classes: Channels of the result.
        dropout: Share of the pooled features dropped.
        filters: Channels at each of the resolutions.

    Returns:
        Class scores at the resolution of the first feature map.

    Reference:
        [Chen et al., 2018](https://arxiv.org/abs/1802.02611), figure 2; unlike there,
        both finer resolutions are used, which helps thin objects
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


def fcn_decoder(features, num_classes, dropout):
    """Scores the three deepest feature maps and adds the scores, the coarsest first.

    Args:
        features: Feature maps, each of half the resolution of the one before.
        num_classes: Channels of the result.
        dropout: Share of the deepest features dropped.

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
    """Convolves, normalizes and rectifies."""
    x = keras.layers.Conv2D(
        filters,
        size,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    # Small data sets have too few steps for Keras' default momentum of 0.99.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_normalization")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def make_crf(config, **changes):
    """Returns the CRF that a configuration describes.

    Args:
        config: A `Config`.
        **changes: Other arguments of `layers.DenseCRF`.
    """
    settings = {name: getattr(config, name) for name in CRF_SETTINGS}
    return layers.DenseCRF(**{**settings, **changes}, dtype="float32", name="crf")


def add_crf(model, crf):
    """Returns a model whose logits are refined by the CRF, to train both together.

    Reference:
        [Zheng et al., 2015](https://arxiv.org/abs/1502.03240)
    """
    return keras.Model(model.input, crf([model.output, model.input]), name="with_crf")


class Segmenter:
    """The model as its users meet it: encoded images in, masks out.

    Its functions `serving_default`, `with_crf` and `tensors` are the signatures of the
    exported model.

    Args:
        network: A trained model from `build_model`.
        crf: A `layers.DenseCRF` that refines its logits.
        image_size: Height and width of the network's input, as in `Config`.
        classes: Names of the classes, in order, each optionally with a colour.
        trained_crf: Whether the CRF was trained together with the network.
    """

    def __init__(self, network, crf, image_size, classes, trained_crf=False):
        self.network = network
        self.crf = crf
        self.trained_crf = trained_crf
        self.image_size = tuple(image_size)
        self.classes = classes
        self.class_names = tf.constant([class_name(line) for line in classes])
        encoded = [tf.TensorSpec([None], tf.string, name="image_bytes")]
        self.serving_default = tf.function(
            lambda image_bytes: self._segment(image_bytes, refine=False),
            input_signature=encoded,
        )
        self.with_crf = tf.function(
            lambda image_bytes: self._segment(image_bytes, refine=True),
            input_signature=encoded,
        )
        self.tensors = tf.function(
            lambda images: {"scores": tf.nn.softmax(network(images, training=False))},
            input_signature=[tf.TensorSpec([None, *self.image_size, 3], name="images")],
        )

    def predictor(self, signature="serving_default"):
        """Returns the function from a list of encoded images to named numpy arrays."""
        segment = getattr(self, signature)

        def predict(encoded_images):
            answers = segment(tf.constant(encoded_images))
            return {name: value.numpy() for name, value in answers.items()}

        return predict

    def _segment(self, image_bytes, refine):
        """Segments encoded images of any size, `(batch,)`.

        Returns:
            `mask_bytes`, `(batch,)`: PNG files of class numbers, as large as the
            images. `classes` and `shares`, both `(batch, classes)`: at the place of
            each number, the name of the class if the mask contains it, otherwise
            nothing, and its share of the pixels.
        """

        def prepare(encoded):
            image = images.decode_image(encoded)
            fitted, inner = images.fit_image(image, *self.image_size)
            return fitted, tf.stack(inner), tf.shape(image)[:2]

        def finish(each):
            fitted, logits, inner, size = each
            rows, columns = inner[0], inner[1]
            logits = logits[:rows, :columns]
            if refine:
                logits = self.crf([logits[None], fitted[None, :rows, :columns]])[0]
            mask = best_class(logits, size)
            counts = tf.math.bincount(
                tf.reshape(mask, [-1]),
                minlength=len(self.classes),
                maxlength=len(self.classes),
            )
            png = tf.io.encode_png(tf.cast(mask, tf.uint8))
            return png, tf.cast(counts / tf.size(mask), tf.float32)

        fitted, inner, size = tf.map_fn(
            prepare,
            image_bytes,
            fn_output_signature=(
                tf.TensorSpec([*self.image_size, 3]),
                tf.TensorSpec([2], tf.int32),
                tf.TensorSpec([2], tf.int32),
            ),
        )
        logits = self.network(fitted, training=False)
        mask_bytes, shares = tf.map_fn(
            finish,
            (fitted, logits, inner, size),
            fn_output_signature=(
                tf.TensorSpec([], tf.string),
                tf.TensorSpec([len(self.classes)]),
            ),
            parallel_iterations=1,  # Each may be a large photograph.
        )
        names = tf.where(shares > 0, self.class_names, "")
        return {"mask_bytes": mask_bytes, "classes": names, "shares": shares}


def best_class(logits, size):
    """Enlarges scores and returns the best class of every pixel.

    Args:
        logits: `(height, width, classes)`.
        size: Height and width of the result in pixels.

    Returns:
        int32 `(*size, 1)`.
    """
    # Class by class: all of them at once would not fit for a large photograph.
    channels = tf.split(logits, logits.shape[-1], axis=-1)
    best = tf.image.resize(channels[0], size, antialias=True)
    mask = tf.zeros_like(best, tf.int32)
    for number, channel in enumerate(channels[1:], start=1):
        channel = tf.image.resize(channel, size, antialias=True)
        mask = tf.where(channel > best, number, mask)
        best = tf.maximum(best, channel)
    return mask


def load_segmenter(run: Path, image_size=None):
    """Returns the best model of a run as a `Segmenter` that computes in float32.

    The network may look at larger images than it was trained on. The CRF has the
    weights that it was trained to have, otherwise what a search over the run's
    validation images found (`crf.json`), otherwise what the configuration says.

    Args:
        run: The run directory.
        image_size: Height and width of the input. Defaults to those of the training.
    """
    config = runs.load_config(Config, run)
    classes = json.loads((run / "classes.json").read_text())
    model = keras.saving.load_model(run / "model.keras", compile=False)
    trained_crf = "crf" in [layer.name for layer in model.layers]
    if trained_crf:
        crf = model.get_layer("crf")
        model = keras.Model(model.input, model.get_layer("logits").output)
    else:
        if (run / "crf.json").exists():
            found = json.loads((run / "crf.json").read_text())
            config = dataclasses.replace(config, **found)
        crf = make_crf(config)
        crf.build([(None, None, None, len(classes)), (None, None, None, 3)])
    if config.precision != "float32":
        trained, keras_policy = model, keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")
        model = build_model(len(classes), config.model, config.backbone, weights=None)
        model.set_weights(trained.get_weights())
        keras.config.set_dtype_policy(keras_policy)
    image_size = image_size or config.image_size
    return Segmenter(model, crf, image_size, classes, trained_crf)


def load_model(where, signature="serving_default", image_size=None):
    """Returns the predictor of any model, with or without its CRF.

    Args:
        where: As `predictors.load_predictor` takes it.
        signature: `serving_default` or `with_crf`.
        image_size: Of a run, as for `load_segmenter`; others have theirs.
    """
    return load_predictor(
        where,
        lambda run: load_segmenter(run, image_size).predictor(signature),
        signature,
    )


def windowed(crf):
    """Returns the same CRF with the method for devices."""
    twin = layers.DenseCRF.from_config({**crf.get_config(), "method": "windowed"})
    classes = crf.support.shape[0]
    twin.build([(None, None, None, classes), (None, None, None, 3)])
    twin.set_weights(crf.get_weights())
    return twin
