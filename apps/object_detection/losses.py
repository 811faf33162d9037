"""The loss of boxes that are predicted at every point of the feature maps."""

import keras
from keras import ops
from keras.utils.bounding_boxes import compute_ciou

from apps.object_detection.assignment import assign, contains
from apps.object_detection.config import CROWD

# Weights of the parts of the loss.
BOX_WEIGHT = 2.5
BINS_WEIGHT = 0.5


def dense_loss(decoder, logits, bins, boxes, targets):
    """Returns the loss of dense predictions.

    It is the sum of the quality focal loss of the scores, the complete IoU loss of the
    boxes and the distribution focal loss of the bins. The last two are those of points
    that `assign` assigns to a target. Each is divided by the sum of the qualities.

    Args:
        decoder: The `layers.BoxDecoder`.
        logits: Class logits: for each stride `(batch, rows, columns, classes)`.
        bins: Logits of the distances: for each stride
            `(batch, rows, columns, 4 * num_bins)`.
        boxes: What the decoder makes of them, `(batch, points, 4)`.
        targets: `boxes`, float32 `(batch, n, 4)`, and `classes`, int32 `(batch, n)`;
            those that are no target are negative. Points inside a crowd are trained
            only if they are assigned to a target.

    Returns:
        A scalar.

    References:
        - [Li et al., 2020](https://arxiv.org/abs/2006.04388)
        - [Zheng et al., 2020](https://arxiv.org/abs/1911.08287)
    """
    points, strides = decoder.points(bins)
    logits, bins = flatten(logits), flatten(bins)
    num_classes = logits.shape[-1]
    matched, quality = assign(
        points,
        ops.stop_gradient(ops.sigmoid(logits)),
        ops.stop_gradient(boxes),
        targets["boxes"],
        targets["classes"],
        min_side=decoder.strides[0],
    )
    matched_boxes = ops.take_along_axis(targets["boxes"], matched[..., None], axis=1)
    matched_classes = ops.take_along_axis(targets["classes"], matched, axis=1)
    scores = quality[..., None] * ops.one_hot(matched_classes, num_classes)

    is_crowd = (targets["classes"] == CROWD)[..., None]
    in_crowd = ops.any(contains(targets["boxes"], points) & is_crowd, axis=1)
    is_trained = ops.cast((quality > 0) | ~in_crowd, "float32")

    class_losses = ops.sum(quality_focal_loss(scores, logits), axis=-1) * is_trained
    box_losses = 1 - compute_ciou(matched_boxes, boxes, "xyxy")
    distances = decoder.encode(matched_boxes, points, strides)
    bin_losses = distribution_focal_loss(distances, bins)
    losses = class_losses + quality * (
        BOX_WEIGHT * box_losses + BINS_WEIGHT * bin_losses
    )
    return ops.sum(losses) / ops.maximum(ops.sum(quality), 1.0)


def flatten(maps):
    """Joins maps `(batch, rows, columns, channels)` to `(batch, points, channels)`."""
    return ops.concatenate(
        [ops.reshape(each, (ops.shape(each)[0], -1, each.shape[-1])) for each in maps],
        axis=1,
    )


def quality_focal_loss(scores, logits):
    """Returns the cross-entropy, weighted by the squared difference of the scores.

    Args:
        scores: The scores to be predicted, from 0 to 1, of any shape.
        logits: The predicted logits, of the same shape.

    Returns:
        The losses, of the same shape.

    Reference:
        [Li et al., 2020](https://arxiv.org/abs/2006.04388), equation 5
    """
    cross_entropy = (
        ops.maximum(logits, 0) - logits * scores + ops.softplus(-ops.abs(logits))
    )
    return ops.square(scores - ops.sigmoid(logits)) * cross_entropy


def distribution_focal_loss(distances, bins):
    """Returns the cross-entropy of the two bins around each distance.

    Args:
        distances: In cells, `(batch, points, 4)`, below `num_bins - 1`.
        bins: Logits, `(batch, points, 4 * num_bins)`.

    Returns:
        The mean over the four sides, `(batch, points)`.

    Reference:
        [Li et al., 2020](https://arxiv.org/abs/2006.04388), equation 6
    """
    num_bins = bins.shape[-1] // 4
    bins = ops.reshape(bins, (*ops.shape(distances), num_bins))
    lower = ops.floor(distances)
    upper_weight = distances - lower
    lower = ops.cast(lower, "int32")

    def cross_entropy(bin_numbers):
        return keras.losses.sparse_categorical_crossentropy(
            bin_numbers, bins, from_logits=True
        )

    losses = (1 - upper_weight) * cross_entropy(lower)
    losses += upper_weight * cross_entropy(lower + 1)
    return ops.mean(losses, axis=-1)
