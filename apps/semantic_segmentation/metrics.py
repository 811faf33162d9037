"""How well masks agree, counted over a whole data set."""

import keras
import numpy as np
from scipy.ndimage import distance_transform_edt

BAND_PIXELS = 5


class Agreement:
    """Counts how often each class was taken for which, everywhere and at boundaries.

    Args:
        num_classes: Number of classes.
        void: Number in the right masks of pixels that do not count.
    """

    def __init__(self, num_classes, void=255):
        self.void = void
        self.everywhere = keras.metrics.MeanIoU(num_classes, ignore_class=void)
        self.boundaries = keras.metrics.MeanIoU(num_classes, ignore_class=void)

    def add(self, mask, answer):
        """Counts the pixels of one image.

        Args:
            mask: The right classes, uint8 `(height, width)`.
            answer: The model's classes, of the same shape.
        """
        self.everywhere.update_state(mask, answer)
        band = boundary_band(mask, self.void)
        self.boundaries.update_state(np.where(band, mask, self.void), answer)

    @property
    def class_iou(self):
        """Intersection over union of each class, NaN where it never occurs."""
        counts = self.everywhere.total_cm.numpy()
        right = np.diag(counts)
        with np.errstate(invalid="ignore"):
            return right / (counts.sum(0) + counts.sum(1) - right)

    def summary(self):
        """Returns `mean_iou`, `pixel_accuracy` and `boundary_score`.

        The last is the mean IoU within 5 pixels of the boundaries between classes, as
        in [Krähenbühl and Koltun, 2011](https://arxiv.org/abs/1210.5644), section 5;
        it is 1 where there are no boundaries.
        """
        counts, near = self.everywhere.total_cm.numpy(), self.boundaries
        return {
            "mean_iou": float(self.everywhere.result()),
            "pixel_accuracy": float(np.trace(counts) / counts.sum()),
            "boundary_score": float(near.result()) if np.any(near.total_cm) else 1.0,
        }


def boundary_band(mask, void=255, width=BAND_PIXELS):
    """Marks the pixels near a boundary between two classes.

    Args:
        mask: Class numbers, `(height, width)`.
        void: Number of pixels that have no class, and hence no boundary.
        width: How near, in pixels.

    Returns:
        A boolean array of the same shape.
    """
    labelled = mask != void
    edge = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        first, second = tuple(first), tuple(second)
        differs = mask[first] != mask[second]
        differs &= labelled[first] & labelled[second]
        edge[first] |= differs
        edge[second] |= differs
    if not edge.any():
        return edge
    return distance_transform_edt(~edge) < width
