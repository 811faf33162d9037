"""Metrics of predicted masks, counted over a whole data set."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from apps.semantic_segmentation.config import VOID

BAND_PIXELS = 5  # Half the width of the bands along boundaries.


class Agreement:
    """Confusion matrices of all images, everywhere and near boundaries.

    Args:
        num_classes: Number of classes.

    Attributes:
        confusion: The confusion matrix of all labelled pixels, from `confusion_matrix`.
        boundary_confusion: That of the pixels near a boundary between two classes.
    """

    def __init__(self, num_classes):
        self.confusion = np.zeros((num_classes, num_classes), int)
        self.boundary_confusion = np.zeros((num_classes, num_classes), int)

    def add(self, mask, prediction):
        """Counts the pixels of one image.

        Args:
            mask: The labels, uint8 `(height, width)`.
            prediction: The predicted classes, uint8 `(height, width)`.
        """
        num_classes = len(self.confusion)
        self.confusion += confusion_matrix(mask, prediction, num_classes)
        near = np.where(boundary_band(mask), mask, VOID)
        self.boundary_confusion += confusion_matrix(near, prediction, num_classes)

    def summary(self):
        """Returns `mean_iou`, `pixel_accuracy` and `boundary_score`.

        The boundary score is the mean IoU within 5 pixels of the boundaries between
        classes, or 1 if there are none.

        Reference:
            [Krähenbühl and Koltun, 2011](https://arxiv.org/abs/1210.5644), section 5
        """
        has_boundaries = self.boundary_confusion.any()
        boundary_iou = class_iou(self.boundary_confusion) if has_boundaries else 1.0
        return {
            "mean_iou": float(np.nanmean(class_iou(self.confusion))),
            "pixel_accuracy": float(np.trace(self.confusion) / self.confusion.sum()),
            "boundary_score": float(np.nanmean(boundary_iou)),
        }


def confusion_matrix(mask, prediction, num_classes):
    """Counts the labelled pixels of each class (rows) by predicted class (columns).

    Args:
        mask: The labels, uint8 `(height, width)`.
        prediction: The predicted classes, uint8 `(height, width)`.
        num_classes: Number of classes.

    Returns:
        int `(num_classes, num_classes)`.
    """
    labelled = mask != VOID
    shape = (num_classes, num_classes)
    pairs = np.ravel_multi_index((mask[labelled], prediction[labelled]), shape)
    return np.bincount(pairs, minlength=num_classes**2).reshape(shape)


def class_iou(confusion):
    """Returns the intersection over union of each class; NaN if it never occurs.

    Args:
        confusion: From `confusion_matrix`.
    """
    intersection = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


def boundary_band(mask, width=BAND_PIXELS):
    """Marks the pixels near a boundary between two classes.

    Args:
        mask: Class numbers, `(height, width)`. Unlabelled pixels have no boundaries.
        width: Pixels closer to a boundary than this are near it.

    Returns:
        A boolean array of the same shape.
    """
    is_boundary = np.zeros(mask.shape, bool)
    # The first pair compares neighbouring rows, the transposed one columns.
    for labels, marks in ((mask, is_boundary), (mask.T, is_boundary.T)):
        differs = labels[:-1] != labels[1:]
        differs &= (labels[:-1] != VOID) & (labels[1:] != VOID)
        marks[:-1] |= differs
        marks[1:] |= differs
    if not is_boundary.any():
        return is_boundary
    return distance_transform_edt(~is_boundary) < width
