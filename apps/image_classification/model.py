"""The network: images to class scores."""

import keras

from apps.common import backbones


def build_model(
    *, num_classes, image_size, backbone, backbone_output, weights, dropout
):
    """Builds a classifier: backbone, mean of its features, linear head.

    Args:
        num_classes: Number of classes.
        image_size: Height and width of the input, in pixels.
        backbone: As for `backbones.load_backbone`, or `small_resnet`.
        backbone_output: The name of the backbone's layer whose features are classified;
            None for the last one.
        weights: As for `backbones.load_backbone`.
        dropout: Dropout rate before the head.

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
        features = backbones.truncate(features, backbone_output)
    features.name = "backbone"

    inputs = keras.Input(input_shape, name="images")
    x = preprocess(inputs)
    x = features(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)  # (batch, channels)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    scores = keras.layers.Dense(num_classes, "softmax", dtype="float32", name="scores")(
        x
    )
    return keras.Model(inputs, scores, name="image_classifier")
