"""From images to class scores, and from encoded images to class names."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from apps.common import backbones, images, runs
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
    input_shape = (image_size, image_size, 3)
    if backbone == "small_resnet":
        preprocess, features = backbones.small_resnet(input_shape, weights)
    else:
        preprocess, features = backbones.load_backbone(backbone, input_shape, weights)
    if backbone_output:
        features = cut(features, backbone_output)
    features.name = "backbone"

    inputs = keras.Input(input_shape, name="images")
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
