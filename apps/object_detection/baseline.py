"""The baseline of a detector: logistic regression on the features of each cell."""

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from apps.common import baselines, datasets, images
from apps.object_detection.config import MAX_BOXES
from apps.object_detection.metrics import coco_scores
from apps.object_detection.suppression import suppress

STRIDE = 16  # Of the cells in pixels, if the backbone has such a feature map.
MAX_IMAGES = 300  # For the fit, which takes seconds.
MAX_BOX_CELLS = 2_000
MAX_OTHER_CELLS = 6_000
IOU = 0.5  # Boxes of a class may overlap so much.
MIN_SCORE = 0.01


def measure(model, splits, config, run):
    """Fits the baseline, records its scores in the run, and prints the validation's.

    From the features of a cell, logistic regression predicts the class of the box whose
    centre lies in the cell. The box is predicted around the centre of the cell, with
    the median size of its class. The features are those of the backbone before the
    training.

    Args:
        model: The model from `build_model`.
        splits: The `Examples` by split.
        config: Gives the image size, the weights and the seed.
        run: The run directory.

    Returns:
        The record: `name`, and for `validation` and `test` the `map` and the `ap50`.
    """
    encode = encoder(model, config.image_size)
    few = datasets.evenly(with_objects(splits["train"]), MAX_IMAGES)
    classifier, sizes = fit(few, encode, config.seed)
    names = np.array([*map(str.encode, few.classes), b""], object)
    kind = "frozen" if config.weights else "random"
    record = {"name": f"logistic regression on {kind} features of each cell"}
    for split in ("validation", "test"):
        examples = splits[split]
        answers = [
            predict(classifier, sizes, *encode(examples.image_bytes(i)))
            for i in range(len(examples))
        ]
        columns = {
            name: np.stack([answer[name] for answer in answers]) for name in answers[0]
        }
        columns["classes"] = names[columns["classes"]]
        scores = coco_scores(examples, columns)
        record[split] = {name: scores[name] for name in ("map", "ap50")}
    baselines.write(run, record)
    return record


def with_objects(examples):
    """Returns the `Examples` that have boxes besides crowds."""
    has_objects = [not each.all() for each in examples.is_crowd]
    return datasets.take(examples, np.flatnonzero(has_objects))


def encoder(model, image_size):
    """Returns a function from an encoded image to features of its cells.

    It returns the features, float32 `(rows, columns, channels)`; the stride in pixels
    of the original image, vertical and horizontal; and the size of the original image.
    """
    maps = model.get_layer("pyramid").input
    strides = model.get_layer("boxes").strides
    best = int(np.argmin(np.abs(np.log(np.divide(strides, STRIDE)))))
    network = keras.Model(model.input, maps[best])

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def encode(image_bytes):
        image = images.decode_image(image_bytes)
        fitted, inner = images.fit_image(image, *image_size)
        size = tf.shape(image)[:2]
        ratio = tf.cast(size, tf.float32) / tf.cast(tf.stack(inner), tf.float32)
        return network(fitted[None])[0], strides[best] * ratio, size

    return lambda image_bytes: [each.numpy() for each in encode(image_bytes)]


def fit(examples, encode, seed):
    """Fits the classifier of cells.

    Args:
        examples: The `Examples` of the training.
        encode: From `encoder`.
        seed: Seed of the choice of cells.

    Returns:
        The classifier, whose class 0 is background; and the median width and height of
        each class as a fraction of the image, float32 `(classes, 2)`.
    """
    random = np.random.default_rng(seed)
    features, labels, sides = [], [], [[] for _ in examples.classes]
    for i in range(len(examples)):
        cells, stride, size = encode(examples.image_bytes(i))
        numbers = np.zeros(cells.shape[:2], int)
        is_object = ~examples.is_crowd[i]
        boxes = examples.boxes[i][is_object]
        classes = examples.box_classes[i][is_object]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        columns, rows = (centres / stride[::-1]).astype(int).T
        numbers[rows, columns] = 1 + classes
        for box, label in zip(boxes, classes, strict=True):
            sides[label].append((box[2:] - box[:2]) / size[::-1])
        others = random.permutation(np.flatnonzero(numbers == 0))
        few = others[: MAX_OTHER_CELLS // len(examples) + 1]
        chosen = np.concatenate([np.flatnonzero(numbers), few])
        features.append(cells.reshape(-1, cells.shape[-1])[chosen])
        labels.append(numbers.ravel()[chosen])
    features, labels = np.concatenate(features), np.concatenate(labels)
    is_box = random.permutation(np.flatnonzero(labels))[:MAX_BOX_CELLS]
    chosen = np.concatenate([is_box, np.flatnonzero(labels == 0)])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    classifier.fit(features[chosen], labels[chosen])
    overall = np.median(np.concatenate([each for each in sides if each]), axis=0)
    medians = [np.median(each, axis=0) if each else overall for each in sides]
    return classifier, np.array(medians, "float32")


def predict(classifier, sizes, cells, stride, size):
    """Returns the boxes of an image.

    Args:
        classifier: From `fit`.
        sizes: From `fit`.
        cells: From `encoder`, like the other arguments.
        stride: Pixels between cells, vertical and horizontal.
        size: Height and width of the image.

    Returns:
        `boxes`, `scores` and `num_detections` as a predictor returns them for one
        image, and `classes`, their numbers; -1 beyond the last box.
    """
    rows, columns, channels = cells.shape
    known = classifier.predict_proba(cells.reshape(-1, channels))
    num_classes = len(sizes)
    scores = np.zeros((rows * columns, num_classes + 1), "float32")
    scores[:, classifier.classes_] = known
    y, x = np.indices((rows, columns)) + 0.5
    centres = np.stack([x * stride[1], y * stride[0]], axis=-1).reshape(-1, 1, 2)
    halves = sizes * size[::-1] / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=-1)
    limits = [*size[::-1], *size[::-1]]
    boxes = np.clip(boxes, 0, limits).astype("float32")
    # The box of each class is a candidate of its own.
    alone = scores[:, 1:, None] * np.eye(num_classes, dtype="float32")
    boxes, scores, classes, number = suppress(
        boxes.reshape(1, -1, 4),
        alone.reshape(1, -1, num_classes),
        iou=IOU,
        confidence=MIN_SCORE,
        max_boxes=MAX_BOXES,
    )
    is_box = np.arange(MAX_BOXES) < number[0]
    return {
        "boxes": boxes[0].numpy(),
        "scores": scores[0].numpy(),
        "classes": np.where(is_box, classes[0], -1),
        "num_detections": number[0].numpy(),
    }
