"""A detector that predicts boxes at every point of its feature maps."""

import keras

from apps.object_detection.losses import dense_loss, flatten


@keras.saving.register_keras_serializable("object_detection")
class OneStage(keras.Model):
    """A detector that predicts a box, and its score for each class, at every point.

    It is a functional model of `images`, float32 `(batch, height, width, 3)` from 0 to
    255, whose sides are multiples of 32. Its outputs by name:

    - `logits`: for each stride `(batch, rows, columns, classes)`.
    - `bins`: for each stride the logits of the distances from a cell's centre to the
      sides of its box, `(batch, rows, columns, 4 * num_bins)`.
    - `boxes`: the boxes of all cells in pixels, `(batch, points, 4)`.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """Returns the `dense_loss` of predictions; `y` are its targets."""
        decoder = self.get_layer("boxes")
        return dense_loss(decoder, y_pred["logits"], y_pred["bins"], y_pred["boxes"], y)

    def candidates(self, images):
        """Returns boxes and their scores, before suppression.

        Args:
            images: float32 `(batch, height, width, 3)` from 0 to 255.

        Returns:
            Boxes, float32 `(batch, points, 4)`, in pixels; and scores from 0 to 1,
            float32 `(batch, points, classes)`.
        """
        outputs = self(images, training=False)
        return outputs["boxes"], keras.ops.sigmoid(flatten(outputs["logits"]))
