"""Faster R-CNN: a detector that looks at proposed regions a second time."""

import keras
import tensorflow as tf
from keras import ops
from keras.utils.bounding_boxes import (
    compute_iou,
    decode_deltas_to_boxes,
    encode_box_to_deltas,
)

import layers
from apps.object_detection.assignment import contains
from apps.object_detection.config import CROWD
from apps.object_detection.losses import dense_loss, flatten
from apps.object_detection.suppression import suppress

# Proposals of an image, and the IoU above which one of two is dropped.
NUM_PROPOSALS = 100
NUM_TRAINING_PROPOSALS = 200
PROPOSAL_IOU = 0.7
# The sample of an image that trains the box head.
NUM_SAMPLES = 64
MAX_POSITIVES = 32
POSITIVE_IOU = 0.5
BOX_HEAD_WEIGHT = 4.0  # Of its loss.
HIDDEN_UNITS = 256
# Deltas are divided by these, so that their size is about 1.
VARIANCE = (0.1, 0.1, 0.2, 0.2)
MAX_DELTA = 5.0  # Proposals with an IoU of 0.5 have smaller ones.


@keras.saving.register_keras_serializable("object_detection")
class FasterRCNN(keras.Model):
    """A detector that proposes regions, and classifies and refines each of them.

    The region proposal network is the dense head of the one-stage model, with the one
    class "object". `layers.RoIAlign` cuts the features of the best proposals out of the
    pyramid. From them, the box head predicts the class, or background, and corrects
    the box.

    It is a functional model of `images`, float32 `(batch, height, width, 3)` from 0 to
    255, whose sides are multiples of 32. Its outputs by name are `features`, the maps
    of the pyramid; `logits`, `bins` and `boxes`, those of `OneStage` with one class;
    and those of `second_stage`.

    Reference:
        [Ren et al., 2015](https://arxiv.org/abs/1506.01497)
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """Returns the loss of the proposals plus that of the box head.

        The box head is trained on proposals that are sampled at random. TensorFlow
        leaves out those that `second_stage` predicts, since nothing uses them here.
        """
        dense_outputs = [y_pred[name] for name in ("logits", "bins", "boxes")]
        objects = {"boxes": y["boxes"], "classes": ops.minimum(y["classes"], 0)}
        loss = dense_loss(self.get_layer("boxes"), *dense_outputs, objects)

        head = self.get_layer("box_head")
        proposals, scores = propose(
            y_pred["boxes"], flatten(y_pred["logits"]), NUM_TRAINING_PROPOSALS
        )
        samples = sample(ops.stop_gradient(proposals), scores, y)
        logits, deltas = head([*y_pred["features"], samples["proposals"]])
        return loss + BOX_HEAD_WEIGHT * box_head_loss(logits, deltas, samples)

    def candidates(self, images):
        """Returns boxes and their scores, before suppression.

        A score is the geometric mean of that of the proposal and of the probability of
        the class.

        Args:
            images: float32 `(batch, height, width, 3)` from 0 to 255.

        Returns:
            Boxes, float32 `(batch, proposals, 4)`, in pixels; and scores from 0 to 1,
            float32 `(batch, proposals, classes)`.

        Reference:
            [Zhou et al., 2021](https://arxiv.org/abs/2103.07461), section 3
        """
        outputs = self(images, training=False)
        boxes = refine(outputs["proposals"], outputs["deltas"])
        probabilities = ops.softmax(outputs["class_logits"])[..., :-1]
        # The scores of the proposals also say how well the boxes fit.
        return boxes, ops.sqrt(outputs["proposal_scores"][..., None] * probabilities)


def second_stage(features, logits, boxes, strides, num_classes):
    """Adds proposals and the box head to the region proposal network.

    Args:
        features: Maps of the feature pyramid, finest first.
        logits: The logits of the one class of the proposal network, for each stride.
        boxes: Its boxes, `(batch, points, 4)`.
        strides: The strides of the maps.
        num_classes: Number of classes.

    Returns:
        The tensors by name. `proposals`: the best boxes of the proposal network,
        `(batch, NUM_PROPOSALS, 4)`, and `proposal_scores`, `(batch, NUM_PROPOSALS)`;
        zero beyond the last one. `class_logits`,
        `(batch, NUM_PROPOSALS, num_classes + 1)`, the last for background. `deltas`,
        `(batch, NUM_PROPOSALS, 4)`: the corrections, as for `refine`.
    """
    propose_best = Proposals(name="proposals", dtype="float32")
    proposals, scores = propose_best([boxes, *logits])
    head = box_head(features, strides, num_classes)
    class_logits, deltas = head([*features, proposals])
    return {
        "proposals": proposals,
        "proposal_scores": scores,
        "class_logits": class_logits,
        "deltas": deltas,
    }


def box_head(features, strides, num_classes):
    """Builds the box head: RoIAlign and two dense layers.

    Args:
        features: Maps of the feature pyramid, finest first.
        strides: The strides of the maps.
        num_classes: Number of classes.

    Returns:
        A model named `box_head`, from a list of the maps and of boxes,
        `(batch, n, 4)`, to class logits and deltas, as in `second_stage`.
    """
    inputs = [keras.Input(each.shape[1:], dtype=each.dtype) for each in features]
    inputs.append(keras.Input((None, 4), dtype="float32"))
    pooled = layers.RoIAlign(strides, name="pool")(inputs)
    x = keras.layers.Reshape((-1, pooled.shape[2] * pooled.shape[3] * pooled.shape[4]))(
        pooled
    )
    for i in range(2):
        x = keras.layers.Dense(
            HIDDEN_UNITS, "relu", kernel_initializer="he_normal", name=f"hidden_{i}"
        )(x)
    outputs = [
        keras.layers.Dense(
            units,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            dtype="float32",
            name=name,
        )(x)
        for name, units in (("class_logits", num_classes + 1), ("deltas", 4))
    ]
    return keras.Model(inputs, outputs, name="box_head")


@keras.saving.register_keras_serializable("object_detection")
class Proposals(keras.layers.Layer):
    """The best boxes of the region proposal network, of those that overlap much.

    Call arguments:
        inputs: The boxes, `(batch, points, 4)`, and the maps of their logits, each
            `(batch, rows, columns, 1)`.

    Output shape:
        `(batch, NUM_PROPOSALS, 4)` and `(batch, NUM_PROPOSALS)`: the boxes, best first,
        and their scores.
    """

    def call(self, inputs):
        """Returns the proposals and their scores."""
        boxes, *logits = inputs
        return propose(boxes, flatten(logits), NUM_PROPOSALS)

    def compute_output_shape(self, input_shape):
        """Returns the shapes of the outputs."""
        (batch, _, _), *_ = input_shape
        return (batch, NUM_PROPOSALS, 4), (batch, NUM_PROPOSALS)


def propose(boxes, logits, num_proposals):
    """Returns the best boxes by their logits, `(batch, points, 1)`, and their scores.

    Beyond the last one, boxes and scores are zero.
    """
    proposals, scores, _, _ = suppress(
        boxes,
        ops.sigmoid(logits),
        iou=PROPOSAL_IOU,
        confidence=0.0,
        max_boxes=num_proposals,
    )
    return proposals, scores


def refine(boxes, deltas):
    """Returns boxes, corrected by deltas, both `(batch, n, 4)`."""
    return decode_deltas_to_boxes(
        boxes,
        ops.clip(deltas, -MAX_DELTA, MAX_DELTA),
        anchor_format="xyxy",
        box_format="xyxy",
        variance=VARIANCE,
    )


def sample(proposals, scores, targets):
    """Samples proposals that train the box head.

    The boxes of the targets join the proposals, so that there are good ones from the
    start. Positive proposals are those with an IoU of at least `POSITIVE_IOU` with a
    target. Proposals whose centre lies in a crowd are no negative ones.

    Args:
        proposals: float32 `(batch, n, 4)`.
        scores: float32 `(batch, n)`; 0 for no proposal.
        targets: `boxes`, float32 `(batch, targets, 4)`, and `classes`, int32
            `(batch, targets)`; those that are no target are negative.

    Returns:
        Tensors of `(batch, NUM_SAMPLES)` proposals by name: the `proposals` and the
        `boxes` of their targets, each with 4 coordinates; the `classes` of their
        targets; and boolean `is_positive` and `is_negative`. Proposals that are neither
        fill up the sample.
    """
    boxes, classes = targets["boxes"], targets["classes"]
    is_target = classes >= 0
    proposals = ops.concatenate([boxes, proposals], axis=1)
    is_proposal = ops.concatenate([is_target, scores > 0], axis=1)

    iou = compute_iou(proposals, boxes, "xyxy")  # (batch, proposals, targets)
    iou = ops.where(is_target[:, None], iou, 0.0)
    target = ops.argmax(iou, axis=-1)
    centres = (proposals[..., :2] + proposals[..., 2:]) / 2
    is_crowd = (classes == CROWD)[..., None]
    in_crowd = ops.any(contains(boxes, centres[:, None]) & is_crowd, axis=1)
    is_positive = is_proposal & (ops.max(iou, axis=-1) >= POSITIVE_IOU)
    is_negative = is_proposal & ~is_positive & ~in_crowd

    # The positive ones with the largest random numbers come first, then the others.
    order = tf.random.uniform(tf.shape(is_proposal))
    positive_order = ops.where(is_positive, order, 0.0)
    least = ops.top_k(positive_order, MAX_POSITIVES)[0][:, -1:]
    is_positive &= order >= least
    order += ops.where(is_positive, 2.0, ops.where(is_negative, 1.0, 0.0))
    sampled = ops.top_k(order, NUM_SAMPLES)[1]

    def take(values):
        return tf.gather(values, sampled, batch_dims=1)

    target = take(target)
    return {
        "proposals": take(proposals),
        "boxes": tf.gather(boxes, target, batch_dims=1),
        "classes": tf.gather(classes, target, batch_dims=1),
        "is_positive": take(is_positive),
        "is_negative": take(is_negative),
    }


def box_head_loss(logits, deltas, samples):
    """Returns the cross-entropy of the classes plus the smooth L1 loss of the deltas.

    Args:
        logits: float32 `(batch, NUM_SAMPLES, classes + 1)`; background is the last.
        deltas: float32 `(batch, NUM_SAMPLES, 4)`.
        samples: From `sample`.

    Returns:
        A scalar: the sum over the proposals, divided by their number.

    Reference:
        [Girshick, 2015](https://arxiv.org/abs/1504.08083), section 2.3
    """
    background = logits.shape[-1] - 1
    is_positive = samples["is_positive"]
    is_trained = ops.cast(is_positive | samples["is_negative"], "float32")
    classes = ops.where(is_positive, samples["classes"], background)
    class_losses = keras.losses.sparse_categorical_crossentropy(
        classes, logits, from_logits=True
    )
    encoded = encode_box_to_deltas(
        samples["proposals"],
        samples["boxes"],
        anchor_format="xyxy",
        box_format="xyxy",
        variance=VARIANCE,
    )
    encoded = ops.where(is_positive[..., None], encoded, 0.0)
    box_losses = 4 * keras.losses.huber(encoded, deltas)  # Keras returns the mean.
    losses = class_losses * is_trained + box_losses * ops.cast(is_positive, "float32")
    return ops.sum(losses) / ops.maximum(ops.sum(is_trained), 1.0)
