"""Which points are to predict which boxes."""

from keras import ops
from keras.utils.bounding_boxes import compute_iou

NUM_POINTS = 10  # Points that predict a box.
# Exponents of the score and of the IoU in the alignment.
SCORE_POWER = 0.5
IOU_POWER = 6.0


def assign(points, scores, boxes, target_boxes, target_classes, min_side):
    """Assigns points to the targets that they predict best, as training goes on.

    The alignment of a point with a target is its score for the class of the target,
    times the IoU of its box, each to a power. Every target gets the points inside it of
    the best alignment; a point that several targets want goes to the one it overlaps
    most. The quality is the alignment, scaled so that the largest one of a target is
    its largest IoU.

    Args:
        points: Centres of the cells, x and y in pixels, float32 `(points, 2)`.
        scores: Predicted, from 0 to 1, float32 `(batch, points, classes)`.
        boxes: Predicted, float32 `(batch, points, 4)`.
        target_boxes: float32 `(batch, targets, 4)`.
        target_classes: int32 `(batch, targets)`; negative for no target.
        min_side: Sides of smaller targets count as so many pixels, so that each has a
            point inside.

    Returns:
        The number of the target of each point, int32 `(batch, points)`; and the
        quality, float32 `(batch, points)`, from 0, background, to 1.

    Reference:
        [Feng et al., 2021](https://arxiv.org/abs/2108.07755), section 3.2
    """
    one_hot = ops.one_hot(ops.maximum(target_classes, 0), scores.shape[-1])
    class_scores = ops.matmul(one_hot, ops.transpose(scores, (0, 2, 1)))
    iou = compute_iou(target_boxes, boxes, "xyxy")  # (batch, targets, points)
    is_inside = contains(target_boxes, points, min_side)
    is_inside = ops.logical_and(is_inside, (target_classes >= 0)[..., None])
    alignment = class_scores**SCORE_POWER * iou**IOU_POWER
    alignment = ops.where(is_inside, alignment, 0.0)

    num_points = min(NUM_POINTS, points.shape[0] or NUM_POINTS)
    least = ops.top_k(alignment, num_points)[0][..., -1:]
    is_wanted = ops.logical_and(alignment >= least, alignment > 0)
    overlap = ops.where(is_wanted, iou, -1.0)
    target = ops.argmax(overlap, axis=1)
    is_chosen = ops.logical_and(
        is_wanted, overlap == ops.max(overlap, 1, keepdims=True)
    )

    alignment = ops.where(is_chosen, alignment, 0.0)
    best = ops.max(alignment, axis=2, keepdims=True)
    best_iou = ops.max(ops.where(is_chosen, iou, 0.0), axis=2, keepdims=True)
    # The alignment may be as small as 1e-30.
    quality = ops.where(best > 0, alignment / ops.where(best > 0, best, 1.0), 0.0)
    return target, ops.max(quality * best_iou, axis=1)


def contains(boxes, points, min_side=0.0):
    """Returns whether points lie inside boxes.

    Args:
        boxes: float32 `(batch, n, 4)`.
        points: x and y, float32 `(points, 2)`.
        min_side: Sides of smaller boxes count as so many pixels. Defaults to 0.

    Returns:
        A boolean tensor `(batch, n, points)`.
    """
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    halves = ops.maximum(boxes[..., 2:] - boxes[..., :2], min_side) / 2
    distances = ops.abs(points - centres[..., None, :])  # (batch, n, points, 2)
    return ops.all(distances <= halves[..., None, :], axis=-1)
