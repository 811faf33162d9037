"""From images to class scores, and from encoded images to class names."""

import importlib
import json
from pathlib import Path

import keras
import tensorflow as tf

import layers
from apps.common import images, runs
from apps.common.cli import closest
from apps.common.errors import BadInput
from apps.image_classification.config import Config


def build_model(
    num_classes,
    image_size,
    backbone="MobileNetV2",
    backbone_output=None,
    weights="imagenet",
    dropout=0.2,
):
    """Builds a classifier: backbone, normalized mean of its features, linear head.

    Args:
        num_classes: Number of classes.
        image_size: Height and width of the input, in pixels.
        backbone: The name of a model in `keras.applications`, or `small_resnet`.
        backbone_output: Name of the backbone's layer whose features are classified.
            Defaults to the last one.
        weights: `imagenet`, the path of a weights file, or None for random weights.
        dropout: Share of the features dropped before the head.

    Returns:
        A model from `images`, float32 `(batch, image_size, image_size, 3)` from 0 to
        255, to `scores`, float32 `(batch, num_classes)`, which sum to 1.

    Raises:
        BadInput: There is no such backbone or layer, or the weights do not fit it.
    """
    if backbone == "small_resnet":
        if weights:
            raise BadInput(
                "small_resnet is trained from scratch; add --weights None to "
                "--backbone small_resnet"
            )
        preprocess, features = small_resnet_preprocess, small_resnet(image_size)
    else:
        preprocess, features = load_backbone(backbone, image_size, weights)
    if backbone_output:
        features = cut(features, backbone_output)
    features.name = "backbone"

    inputs = keras.Input((image_size, image_size, 3), name="images")
    x = preprocess(inputs)
    x = features(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)  # (batch, channels)
    # Backbones differ in the scale of their features. The momentum is low because the
    # statistics must keep up with features that are being fine-tuned.
    x = keras.layers.BatchNormalization(momentum=0.9, name="normalization")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    scores = keras.layers.Dense(num_classes, "softmax", dtype="float32", name="scores")(
        x
    )
    return keras.Model(inputs, scores, name="image_classifier")


def load_backbone(name, image_size, weights):
    """Returns a model of `keras.applications` without its top, and its preprocessing.

    Args:
        name: Its name, such as `EfficientNetV2B0`.
        image_size: Height and width of the input, in pixels.
        weights: `imagenet`, a path, or None.

    Raises:
        BadInput: There is no such model, or the weights are missing or do not fit.
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
            include_top=False, weights=weights, input_shape=(image_size, image_size, 3)
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
                f"--image-size {image_size} does not suit {name}: {error}"
            ) from error
        if weights not in (None, "imagenet"):
            raise BadInput(
                f"--weights {weights} does not fit {name} without its top; pass a "
                "weights file made for this architecture"
            ) from error
        raise
    module = importlib.import_module(constructor.__module__)
    return module.preprocess_input, backbone


def cut(backbone, output):
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


def small_resnet(image_size, filters=(32, 64, 128)):
    """Returns a residual network for tiny images, trained from scratch.

    Each stage after the first halves the resolution.

    Reference:
        [He et al., 2016](https://arxiv.org/abs/1512.03385), section 4.2
    """
    inputs = keras.Input((image_size, image_size, 3))
    x = keras.layers.Conv2D(filters[0], 3, padding="same", name="stem")(inputs)
    for stage, channels in enumerate(filters, start=1):
        strides = 1 if stage == 1 else 2
        x = layers.ResidualBlock(channels, strides, name=f"block_{stage}")(x)
    return keras.Model(inputs, x)


def small_resnet_preprocess(pixels):
    """Scales pixels to the range from -1 to 1."""
    return pixels / 127.5 - 1


def set_trainable(model, share):
    """Chooses which layers of a pretrained backbone learn; the head always does.

    Batch normalization stays as it was pretrained: a few small batches are no match for
    the statistics of a million images.

    Args:
        model: From `build_model`.
        share: Share of the backbone's layers, counted from its end; 0 freezes it.
    """
    backbone = model.get_layer("backbone")
    start = round((1 - share) * len(backbone.layers))
    for i, layer in enumerate(backbone.layers):
        # Only `trainable` decides: a functional model overrides `training=False`.
        normalizes = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = i >= start and not normalizes


class Classifier:
    """The model as its users meet it: encoded images in, ranked class names out.

    Its two functions are the signatures of the exported model.

    Args:
        model: A trained model from `build_model`.
        class_names: The names of its classes, in order; strings or UTF-8 bytes.
    """

    def __init__(self, model, class_names):
        self.model = model
        self.class_names = tf.constant(class_names)
        size = model.input_shape[1]
        self.tensors = tf.function(
            self._tensors,
            input_signature=[tf.TensorSpec([None, size, size, 3], name="images")],
        )
        self.serving_default = tf.function(
            self._serving_default,
            input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
        )

    def __call__(self, encoded_images):
        """Classifies a list of encoded images; returns named numpy arrays."""
        answers = self.serving_default(tf.constant(encoded_images))
        return {name: value.numpy() for name, value in answers.items()}

    def _tensors(self, images):
        """Scores prepared images, `(batch, size, size, 3)` from 0 to 255.

        Returns:
            `scores`, `(batch, classes)`, in the order of the class names.
        """
        return {"scores": self.model(images, training=False)}

    def _serving_default(self, image_bytes):
        """Classifies encoded images of any size, `(batch,)`.

        Returns:
            `classes` and `scores`, both `(batch, classes)`, the best first.
        """
        size = self.model.input_shape[1]
        pixels = tf.map_fn(
            lambda encoded: images.resize_image(images.decode_image(encoded), size),
            image_bytes,
            fn_output_signature=tf.TensorSpec([size, size, 3]),
        )
        scores, order = tf.math.top_k(
            self.tensors(pixels)["scores"], k=self.class_names.shape[0]
        )
        return {"classes": tf.gather(self.class_names, order), "scores": scores}


def load_classifier(run: Path):
    """Returns the best model of a run as a `Classifier` that computes in float32."""
    config = runs.load_config(Config, run)
    class_names = json.loads((run / "classes.json").read_text())
    model = keras.saving.load_model(run / "model.keras", compile=False)
    if config.precision != "float32":
        trained, keras_policy = model, keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")
        model = build_model(
            len(class_names),
            config.image_size,
            config.backbone,
            config.backbone_output,
            weights=None,
        )
        model.set_weights(trained.get_weights())
        keras.config.set_dtype_policy(keras_policy)
    return Classifier(model, class_names)


def training_config(model, data=None):
    """Returns the settings a model was trained with, so that splits come out alike.

    Args:
        model: A run, an exported version or an edge bundle. Others tell nothing; for
            them the defaults are returned.
        data: The data set to be used instead of the one that the model was trained on.

    Raises:
        BadInput: The data set is not given, and the model does not tell it.
    """
    path = Path(model)
    folder = path.parent if path.suffix == ".tflite" else path
    if (path / "config.json").exists():
        config = runs.load_config(Config, path)
    elif (folder.parent / "card.json").exists():
        card = json.loads((folder.parent / "card.json").read_text())
        config = Config(**card["config"])
    elif data:
        config = Config("")
    else:
        raise BadInput(
            f"--model {model} does not tell what it was trained on; add --data, or "
            "images to predict"
        )
    return config
