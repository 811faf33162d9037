"""Quality of detected boxes: COCO's average precision, by pycocotools."""

import contextlib
import io
from typing import NamedTuple

import keras
import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from apps.common.predictors import in_batches
from apps.object_detection.config import MAX_BOXES

# Areas of labelled boxes in pixels, as COCO groups them.
AREAS = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
IOUS = np.linspace(0.5, 0.95, 10)  # Intersections over union that count as found.
RECALLS = np.linspace(0, 1, 101)
CONFIDENCES = np.linspace(0.01, 0.99, 99)
# Engines are compared by their boxes with at least this score, which may change so far.
MIN_COMPARED_SCORE = 0.3
MAX_SCORE_CHANGE = 0.05


class Detections(NamedTuple):
    """The detected boxes of an image, best first.

    Attributes:
        boxes: float32 `(n, 4)`: x1, y1, x2, y2 in pixels.
        classes: Class numbers, int `(n,)`.
        scores: float32 `(n,)`.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


class ClassMatches(NamedTuple):
    """The detected boxes of a class in all images, best first.

    Attributes:
        images: The position of the image of each box, int `(n,)`.
        scores: float `(n,)`.
        is_found: Whether a box matches a labelled one, bool `(10, n)`, at each of
            `IOUS`.
        is_false: Whether a box matches none, bool `(10, n)`. Boxes in crowd regions are
            neither.
        num_labelled: Number of labelled boxes of each image, int `(images,)`, without
            crowd regions.
    """

    images: np.ndarray
    scores: np.ndarray
    is_found: np.ndarray
    is_false: np.ndarray
    num_labelled: np.ndarray


def detect(predictor, examples, batch_size=8):
    """Returns the answers of a predictor to all images.

    Args:
        predictor: From `load_predictor`.
        examples: `data.Examples`.
        batch_size: Images per call.
    """
    encoded_images = map(examples.image_bytes, range(len(examples)))
    return in_batches(predictor, encoded_images, batch_size)


def detections(answers, index, classes):
    """Returns the `Detections` of one image; those of unknown classes are left out.

    Args:
        answers: As a predictor returns them.
        index: The position of the image.
        classes: The names of the classes.
    """
    numbers = {name.encode(): number for number, name in enumerate(classes)}
    number_of_boxes = answers["num_detections"][index]
    found = [numbers.get(name, -1) for name in answers["classes"][index]]
    found = np.array(found[:number_of_boxes], int)
    is_known = found >= 0
    boxes, scores = (
        answers[name][index][:number_of_boxes][is_known] for name in ("boxes", "scores")
    )
    return Detections(boxes, found[is_known], scores)


def evaluate_boxes(examples, answers, areas=tuple(AREAS)):
    """Compares the answers to all images with their labels, as COCO does.

    Args:
        examples: `data.Examples`.
        answers: The answers of a predictor to all of them.
        areas: Names of `AREAS`; the first must be `all`.

    Returns:
        A `COCOeval` with its results in `eval`.

    Reference:
        [Lin et al., 2014](https://arxiv.org/abs/1405.0312)
    """
    labelled, detected = [], []
    for i in range(len(examples)):
        labels = examples.boxes[i], examples.box_classes[i], examples.is_crowd[i]
        for box, number, is_crowd in zip(*labels, strict=True):
            labelled.append(_annotation(i, number, box, iscrowd=int(is_crowd)))
        found = detections(answers, i, examples.classes)
        for box, number, score in zip(*found, strict=True):
            detected.append(_annotation(i, number, box, score=float(score)))
    with contextlib.redirect_stdout(io.StringIO()):  # It prints what it does.
        sides = [_coco(examples, each) for each in (labelled, detected)]
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.areaRng = [AREAS[name] for name in areas]
        evaluation.params.areaRngLbl = list(areas)
        evaluation.params.maxDets = [MAX_BOXES]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _annotation(index, number, box, **more):
    """Returns a box as COCO's files describe it; ids begin with 1."""
    x, y, width, height = _with_size(box[None])[0].tolist()
    return {
        "image_id": index + 1,
        "category_id": int(number) + 1,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        **more,
    }


def _with_size(boxes):
    """Returns boxes as x, y, width and height, float64 `(n, 4)`."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _coco(examples, annotations):
    """Returns annotations of the images as a `COCO` data set."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i + 1} for i in range(len(examples))],
        "categories": [{"id": i + 1} for i in range(len(examples.classes))],
        "annotations": [{**each, "id": i + 1} for i, each in enumerate(annotations)],
    }
    coco.createIndex()
    return coco


def summarize(evaluation):
    """Returns the average precision, from 0 to 1, or None where there are no labels.

    Args:
        evaluation: From `evaluate_boxes`.

    Returns:
        `map`, the mean over classes and over IoUs from 0.5 to 0.95; `ap50` and `ap75`,
        the means over classes at one IoU; and for the areas that were evaluated
        `map_small`, `map_medium` and `map_large`.
    """
    precision = evaluation.eval["precision"][..., 0]
    sizes = enumerate(evaluation.params.areaRngLbl)
    return {
        "map": _mean(precision[..., 0]),
        "ap50": _mean(precision[0, ..., 0]),
        "ap75": _mean(precision[5, ..., 0]),
        **{f"map_{name}": _mean(precision[..., i]) for i, name in sizes if i},
    }


def coco_scores(examples, answers):
    """Returns `map`, `ap50` and `ap75` of the answers to all images.

    Args:
        examples: `data.Examples`.
        answers: The answers of a predictor to all of them.

    Returns:
        Numbers from 0 to 1; 0 without labelled boxes.
    """
    scores = summarize(evaluate_boxes(examples, answers, areas=("all",)))
    return {name: value or 0.0 for name, value in scores.items()}


def summarize_class(evaluation, number):
    """Returns the `ap` and the `ap50` of a class, as `summarize` does."""
    precision = evaluation.eval["precision"][:, :, number, 0, 0]
    return {"ap": _mean(precision), "ap50": _mean(precision[0])}


def _mean(precision):
    """Returns the mean precision; pycocotools writes -1 where there are no labels."""
    precision = precision[precision > -1]
    return float(precision.mean()) if precision.size else None


def class_matches(evaluation):
    """Returns the `ClassMatches` of each class.

    Args:
        evaluation: From `evaluate_boxes`.
    """
    num_images = len(evaluation.params.imgIds)
    num_areas = len(evaluation.params.areaRng)
    return [
        _class_matches(evaluation.evalImgs[start : start + num_images])
        for start in range(0, len(evaluation.evalImgs), num_areas * num_images)
    ]


def _class_matches(image_results):
    """Returns the `ClassMatches` of a class, given its results for each image."""
    num_labelled = np.zeros(len(image_results), int)
    images, scores = [], []
    matched = [np.zeros((2, len(IOUS), 0), bool)]
    for i, result in enumerate(image_results):
        if result is None:  # Without boxes of the class.
            continue
        num_labelled[i] = np.sum(result["gtIgnore"] == 0)
        images += [i] * len(result["dtScores"])
        scores += result["dtScores"]
        matched.append(np.array([result["dtMatches"], result["dtIgnore"]]).astype(bool))
    order = np.argsort(-np.array(scores, float), kind="stable")
    is_matched, in_crowd = np.concatenate(matched, axis=2)[..., order]
    return ClassMatches(
        np.array(images, int)[order],
        np.array(scores, float)[order],
        is_matched & ~in_crowd,
        ~is_matched,
        num_labelled,
    )


def average_precision(matches, counts):
    """Returns the average precision of a class on images that count several times.

    Args:
        matches: `ClassMatches`.
        counts: How often each image counts, int `(images,)`.

    Returns:
        float `(10,)`, at each of `IOUS`; NaN without labelled boxes.
    """
    num_labelled = counts @ matches.num_labelled
    if not num_labelled:
        return np.full(len(IOUS), np.nan)
    weights = counts[matches.images]
    found, false = (
        np.cumsum(side * weights, axis=1)
        for side in (matches.is_found, matches.is_false)
    )
    precision = found / np.maximum(found + false, 1)
    # The best precision at this recall or a higher one; 0 at recalls never reached.
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.pad(best, ((0, 0), (0, 1)))
    places = [np.searchsorted(row, RECALLS) for row in found / num_labelled]
    return np.take_along_axis(best, np.array(places), axis=1).mean(axis=1)


def bootstrap(evaluation, num_resamples=200, seed=0):
    """Returns how far the scores depend on the choice of the images.

    Args:
        evaluation: From `evaluate_boxes`.
        num_resamples: How often to draw as many images, with replacement.
        seed: Seed of the draws.

    Returns:
        The 95 % intervals of `map` and `ap50`, a pair of numbers each.
    """
    classes = class_matches(evaluation)
    num_images = len(evaluation.params.imgIds)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        drawn = random.integers(num_images, size=num_images)
        counts = np.bincount(drawn, minlength=num_images)
        by_class = [average_precision(matches, counts) for matches in classes]
        precision = np.array([row for row in by_class if not np.isnan(row).any()])
        if len(precision):
            values.append((precision.mean(), precision[:, 0].mean()))
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    return {
        name: [float(low[i]), float(high[i])] for i, name in enumerate(("map", "ap50"))
    }


def precision_and_recall(matches, confidence):
    """Returns the precision and the recall of a class at an IoU of 0.5.

    Args:
        matches: `ClassMatches`.
        confidence: Boxes with lower scores do not count.

    Returns:
        Two numbers from 0 to 1; 0 where there are no boxes.
    """
    is_kept = matches.scores >= confidence
    found = int(np.sum(matches.is_found[0] & is_kept))
    false = int(np.sum(matches.is_false[0] & is_kept))
    num_labelled = int(matches.num_labelled.sum())
    return found / max(1, found + false), found / max(1, num_labelled)


def best_confidence(predictor, examples):
    """Returns the confidence with the best mean F1 over the classes, at an IoU of 0.5.

    Args:
        predictor: From `load_predictor`.
        examples: `data.Examples` for validation.

    Returns:
        One of `CONFIDENCES`, the middle one of several that are best. Without labelled
        boxes it is 0.5.
    """
    answers = detect(predictor, examples)
    evaluation = evaluate_boxes(examples, answers, areas=("all",))
    classes = [each for each in class_matches(evaluation) if each.num_labelled.any()]
    if not classes:
        return 0.5
    f1 = np.mean(
        [[f1_score(each, value) for value in CONFIDENCES] for each in classes], axis=0
    )
    best = CONFIDENCES[f1 >= f1.max() - 1e-9]
    return round(float(best[len(best) // 2]), 2)


def f1_score(matches, confidence):
    """Returns the harmonic mean of the precision and the recall of a class."""
    precision, recall = precision_and_recall(matches, confidence)
    return 2 * precision * recall / max(1e-9, precision + recall)


def pair_boxes(examples, answers, confidence):
    """Pairs labelled and detected boxes of any class, for a confusion matrix.

    Boxes pair that overlap by an IoU of at least 0.5, the largest overlaps first.

    Args:
        examples: `data.Examples`.
        answers: The answers of a predictor to all of them.
        confidence: Boxes with lower scores are not detected.

    Returns:
        For each image two arrays of class numbers: the labelled and the detected ones.
        Boxes without a partner are paired with the number after the last class, the
        background. Crowd regions, and boxes detected in them, are left out.
    """
    return [
        _pair_boxes(examples, i, detections(answers, i, examples.classes), confidence)
        for i in range(len(examples))
    ]


def _pair_boxes(examples, index, found, confidence):
    """Returns the pairs of one image, given its `Detections`."""
    background = len(examples.classes)
    found = Detections(*(each[found.scores >= confidence] for each in found))
    labelled = np.asarray(examples.box_classes[index], int)
    is_crowd = np.asarray(examples.is_crowd[index], bool)
    overlap = _overlaps(found.boxes, examples.boxes[index], is_crowd)
    in_crowd = (overlap[:, is_crowd] >= IOUS[0]).any(axis=1)
    partners = {}  # From detected to labelled boxes.
    overlap = np.where(is_crowd, 0, overlap)
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = map(int, np.unravel_index(place, overlap.shape))
        if overlap[i, j] < IOUS[0]:
            break
        if i not in partners and j not in partners.values():
            partners[i] = j
    missed = set(np.flatnonzero(~is_crowd).tolist()) - set(partners.values())
    false = set(np.flatnonzero(~in_crowd).tolist()) - set(partners)
    pairs = [
        *((labelled[j], found.classes[i]) for i, j in partners.items()),
        *((labelled[j], background) for j in sorted(missed)),
        *((background, found.classes[i]) for i in sorted(false)),
    ]
    return np.array(pairs, int).reshape(-1, 2).T


def changed_boxes(answers, others, classes):
    """Returns the fraction of the boxes of two engines that only one of them has.

    Boxes with low scores do not count. A box is found in the other answers if these
    have one of the same class that overlaps it by an IoU of at least 0.5 and has nearly
    the same score.

    Args:
        answers: The answers of one engine.
        others: The answers of the other one to the same images.
        classes: The names of the classes.
    """
    num_changed = num_boxes = 0
    for i in range(len(answers["boxes"])):
        sides = [detections(each, i, classes) for each in (answers, others)]
        for one, other in (sides, sides[::-1]):
            is_counted = one.scores >= MIN_COMPARED_SCORE
            num_boxes += int(is_counted.sum())
            num_changed += int((is_counted & ~_is_found(one, other)).sum())
    return num_changed / max(1, num_boxes)


def _is_found(one, other):
    """Returns which `Detections` of one engine the other one has too, bool `(n,)`."""
    is_same = one.classes[:, None] == other.classes
    is_same &= np.abs(one.scores[:, None] - other.scores) <= MAX_SCORE_CHANGE
    return (is_same & (_overlaps(one.boxes, other.boxes) >= IOUS[0])).any(axis=1)


def _overlaps(boxes, others, is_crowd=None):
    """Returns the intersections over unions of boxes, float `(boxes, others)`.

    In a crowd region, bool `(others,)`, it is the fraction of the box that lies there.
    """
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    if is_crowd is None:
        is_crowd = np.zeros(len(others))
    sides = _with_size(boxes), _with_size(others)
    return mask.iou(*sides, np.asarray(is_crowd, "uint8"))


class ValidationMap(keras.callbacks.Callback):
    """Adds COCO's average precision to the metrics of every epoch.

    They are called `val_map` and `val_ap50`; 0 without labelled boxes.

    Args:
        predictor: Detects boxes with the model in training.
        examples: The validation examples.
    """

    def __init__(self, predictor, examples):
        super().__init__()
        self.predictor = predictor
        self.examples = examples

    def on_epoch_end(self, epoch, logs=None):
        """Detects boxes in all images and scores them."""
        scores = coco_scores(self.examples, detect(self.predictor, self.examples))
        logs["val_map"], logs["val_ap50"] = scores["map"], scores["ap50"]
