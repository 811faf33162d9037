"""Non-maximum suppression: the best of boxes that overlap."""

import tensorflow as tf


def suppress(boxes, scores, *, iou, confidence, max_boxes, max_candidates=1000):
    """Keeps the best boxes of each class and drops those that overlap them.

    The work is bounded: only the points with the best scores are candidates.

    Args:
        boxes: float32 `(batch, points, 4)`: x1, y1, x2, y2 in any unit.
        scores: float32 `(batch, points, classes)`, from 0 to 1.
        iou: Intersection over union above which two boxes of a class are one object.
        confidence: Scores must be above it.
        max_boxes: Number of boxes to return for an image, of all classes together.
        max_candidates: Number of points that are looked at in an image.

    Returns:
        The boxes, float32 `(batch, max_boxes, 4)`, best first; their scores, float32
        `(batch, max_boxes)`; their class numbers, int32 `(batch, max_boxes)`; and the
        number of boxes, int32 `(batch,)`. Beyond that number all values are zero.
    """
    num_candidates = tf.minimum(max_candidates, tf.shape(boxes)[1])
    best = tf.math.top_k(tf.reduce_max(scores, axis=-1), num_candidates).indices
    boxes = tf.gather(boxes, best, batch_dims=1)
    scores = tf.gather(scores, best, batch_dims=1)
    kept = tf.image.combined_non_max_suppression(
        boxes[:, :, None],
        scores,
        max_output_size_per_class=max_boxes,
        max_total_size=max_boxes,
        iou_threshold=iou,
        score_threshold=confidence,
        clip_boxes=False,
    )
    classes = tf.cast(kept.nmsed_classes, tf.int32)
    return kept.nmsed_boxes, kept.nmsed_scores, classes, kept.valid_detections
