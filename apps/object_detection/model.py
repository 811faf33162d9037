"""Builds a detector: backbone, feature pyramid, heads."""

import keras

import layers
from apps.common.feature_maps import load_encoder
from apps.object_detection.faster_rcnn import FasterRCNN, second_stage
from apps.object_detection.heads import dense_head
from apps.object_detection.one_stage import OneStage

MIN_STRIDE = 4  # Finer maps cost much and add little.
MAX_LEVELS = 3  # Levels of the feature pyramid.


def build_model(*, num_classes, model, backbone, weights, filters, num_bins):
    """Builds a detector.

    Args:
        num_classes: Number of classes.
        model: `one_stage` or `faster_rcnn`.
        backbone: As for `feature_maps.load_encoder`.
        weights: Weights of the backbone: `imagenet`, the path of a weights file or of
            a folder that holds it, or None for random weights.
        filters: Channels of the feature pyramid and of the heads.
        num_bins: Bins of the distances.

    Returns:
        A `OneStage` or a `faster_rcnn.FasterRCNN`. The backbone is its layer
        `backbone`.

    Raises:
        BadInput: There is no such backbone, or the weights are missing or do not fit.
    """
    images = keras.Input((None, None, 3), name="images")
    preprocess, encoder, strides = load_encoder(
        backbone, weights, min_stride=MIN_STRIDE
    )
    levels = slice(-MAX_LEVELS, None)
    maps = encoder(preprocess(images))[levels]
    strides = strides[levels]
    pyramid = layers.FeaturePyramid(filters, bottom_up=True, name="pyramid")(maps)
    # The region proposal network has the one class "object".
    is_one_stage = model == "one_stage"
    num_dense_classes = num_classes if is_one_stage else 1
    logits, bins = dense_head(pyramid, num_dense_classes, filters, num_bins)
    boxes = layers.BoxDecoder(strides, num_bins, name="boxes", dtype="float32")(bins)
    outputs = {"logits": logits, "bins": bins, "boxes": boxes}
    if is_one_stage:
        return OneStage(images, outputs, name=model)
    outputs["features"] = pyramid
    outputs |= second_stage(pyramid, logits, boxes, strides, num_classes)
    return FasterRCNN(images, outputs, name=model)
