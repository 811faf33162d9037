"""The head that predicts boxes and their classes at every point of feature maps."""

import keras

from apps.common.feature_maps import convolve

NUM_CONVOLUTIONS = 2  # Of each branch.
FIRST_SCORE = 0.01  # All scores before training: most points are background.


def dense_head(features, num_classes, filters, num_bins):
    """Predicts class logits and bins at every point of feature maps.

    Each level has a branch for classes and one for boxes, each of a few convolutions.

    Args:
        features: Feature maps, finest first.
        num_classes: Number of classes.
        filters: Channels of the branches.
        num_bins: Bins of the distances.

    Returns:
        Class logits, and bins: for each level `(batch, rows, columns, classes)` and
        `(batch, rows, columns, 4 * num_bins)`, float32.
    """
    first_logit = keras.ops.log(FIRST_SCORE / (1 - FIRST_SCORE))

    def predict(x, branch, level, channels, first):
        for i in range(NUM_CONVOLUTIONS):
            x = convolve(x, filters, 3, f"head_{branch}_{level}_{i}")
        x = keras.layers.Conv2D(
            channels,
            1,
            bias_initializer=keras.initializers.Constant(first),
            name=f"head_{branch}_{level}",
        )(x)
        return keras.layers.Activation("linear", dtype="float32")(x)

    levels = list(enumerate(features))
    logits = [predict(x, "classes", i, num_classes, first_logit) for i, x in levels]
    bins = [predict(x, "bins", i, 4 * num_bins, 0.0) for i, x in levels]
    return logits, bins
