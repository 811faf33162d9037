"""The linear head: a logistic regression on frozen features, where training starts."""

import dataclasses
import io
import itertools
import sys

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from apps.common import backbones, datasets, runs
from apps.common.errors import BadInput
from apps.image_classification.config import BACKBONES, RESIZINGS
from apps.image_classification.data import make_batches

# Images whose features are extracted at most, for the head and for the choice of the
# backbone.
MAX_EXAMPLES = 5000
MAX_EXAMPLES_TO_CHOOSE = 500
# Standard errors by which other features must be better than the first ones.
MIN_GAIN = 1.5
# Height and width of the small copies whose pixels a baseline classifies.
MAX_SIDE = 16
# The inverse strengths of the regularization that are tried.
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def choose(config, examples):
    """Replaces `auto` settings by those with the best features for these images.

    Features are compared by the cross-validated log loss of a logistic regression. The
    first of `BACKBONES` and of `RESIZINGS` are kept unless others are clearly better,
    because few images tell little.

    Args:
        config: A `Config` whose `backbone` or `resize` may be `auto`.
        examples: The training `Examples`; at most `MAX_EXAMPLES_TO_CHOOSE` are used.

    Returns:
        The `Config` without `auto`.

    Raises:
        BadInput: No backbone can be loaded.
    """
    if "auto" not in (config.backbone, config.resize):
        return config
    if config.backbone == "auto" and not config.weights:
        raise BadInput(
            "--backbone auto compares pretrained features; remove --weights None, or "
            "name a backbone"
        )
    if not config.weights or config.backbone == "small_resnet":
        # Random features tell nothing.
        return dataclasses.replace(config, resize=RESIZINGS[0])
    names = BACKBONES if config.backbone == "auto" else (config.backbone,)
    shape = (config.image_size, config.image_size, 3)
    loaded, reasons = backbones.load_available(names, shape, config.weights)
    if not loaded and config.backbone != "auto":
        raise BadInput(reasons[config.backbone])
    for reason in reasons.values():
        print(f"not compared: {reason}", file=sys.stderr)
    if not loaded:
        raise BadInput(
            "no backbone can be loaded; pass --weights with a file or a folder of "
            "weights"
        )
    resizings = RESIZINGS if config.resize == "auto" else (config.resize,)
    few = draw(examples, MAX_EXAMPLES_TO_CHOOSE, config.seed)
    losses = {}
    for name, resize in itertools.product(loaded, resizings):
        candidate = dataclasses.replace(config, backbone=name, resize=resize)
        preprocess, backbone = loaded[name]
        if config.backbone_output:
            backbone = backbones.truncate(backbone, config.backbone_output)
        inputs = keras.Input(shape)
        pooled = keras.layers.GlobalAveragePooling2D()(backbone(preprocess(inputs)))
        views = extract(keras.Model(inputs, pooled), few, candidate)
        losses[candidate] = cross_validate(views, few.labels, 1.0)
        print(
            f"{name}, {resize}: cross-validated log loss {losses[candidate].mean():.3f}"
        )
    first, *_ = losses
    best = min(losses, key=lambda candidate: losses[candidate].mean())
    gains = losses[first] - losses[best]
    is_clear = gains.mean() > MIN_GAIN * gains.std() / np.sqrt(len(gains))
    return best if is_clear else first


def draw(examples, num_examples, seed):
    """Returns at most so many of the examples, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return datasets.take(examples, np.sort(order[:num_examples]))


def extract(extractor, examples, config, is_mirrored=False):
    """Returns the features of images.

    Args:
        extractor: A model from images to features.
        examples: The `Examples`.
        config: The settings of the images.
        is_mirrored: Whether each image has a second view, its mirror image.

    Returns:
        float32 `(examples, views, channels)`.
    """
    batches = make_batches(examples, config).map(lambda images, _: images)
    views = [batches]
    if is_mirrored:
        views.append(batches.map(tf.image.flip_left_right))
    return np.stack([extractor.predict(view, verbose=0) for view in views], axis=1)


def load_features(model, splits, config, run):
    """Extracts features of each split, or loads those that the run has.

    Args:
        model: A model from `build_model` with a frozen or pretrained backbone.
        splits: `Examples` by split; at most `MAX_EXAMPLES` of each are used.
        config: Its `Config`.
        run: The run directory; `features.npz` keeps the features there.

    Returns:
        By split, the features, float32 `(examples, views, channels)`, and the labels,
        int `(examples,)`. With `config.flip` the images of training and validation
        have two views, if they are not too many. Without pretrained weights the
        features are the pixels of small copies of the images.
    """
    path = run / "features.npz"
    if path.exists():
        with np.load(path) as content:
            return {
                split: (content[f"{split}_features"], content[f"{split}_labels"])
                for split in splits
            }
    if config.weights:
        extractor = keras.Model(model.input, model.get_layer("pooling").output)
    else:
        small = min(config.image_size, MAX_SIDE)
        extractor = keras.Sequential(
            [
                keras.Input(model.input_shape[1:]),
                keras.layers.Resizing(small, small, antialias=True),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Flatten(),
            ]
        )
    parts = {}
    is_small = 2 * len(splits["train"]) <= MAX_EXAMPLES
    for split, examples in splits.items():
        some = draw(examples, MAX_EXAMPLES, config.seed)
        is_mirrored = is_small and config.flip and config.weights and split != "test"
        parts[split] = extract(extractor, some, config, is_mirrored), some.labels
    content = io.BytesIO()
    np.savez(
        content,
        **{f"{split}_features": features for split, (features, _) in parts.items()},
        **{f"{split}_labels": labels for split, (_, labels) in parts.items()},
    )
    runs.write_bytes(path, content.getvalue())
    return parts


def evaluate(model, parts):
    """Returns the metrics of the model's head, by name, as Keras logs them.

    Args:
        model: A compiled model whose head was fitted.
        parts: From `load_features`.
    """
    head = model.get_layer("scores")
    features = keras.Input(head.kernel.shape[:1])
    classifier = keras.Model(features, head(features))
    classifier.compile(loss=model.loss, metrics=["accuracy", log_loss()])
    logs = {}
    for split, prefix in (("train", ""), ("validation", "val_")):
        views, labels = parts[split]
        labels = keras.utils.to_categorical(labels, head.units)
        values = classifier.evaluate(views[:, 0], labels, verbose=0, return_dict=True)
        logs |= {f"{prefix}{name}": value for name, value in values.items()}
    return logs


def log_loss():
    """Returns the metric that chooses the best epoch: the loss without smoothing."""
    return keras.metrics.CategoricalCrossentropy(name="log_loss")


def cross_validate(views, labels, strength):
    """Returns the log losses of a logistic regression by cross-validation.

    Args:
        views: Features, `(examples, views, channels)`. All views are learned from; the
            first one is scored.
        labels: The classes, int `(examples,)`. Classes with one example are left out.
        strength: The inverse strength of the regularization.

    Returns:
        The log loss of each example that is not left out.
    """
    counts = np.bincount(labels)
    is_used = counts[labels] > 1
    views, labels = views[is_used], labels[is_used]
    folds = StratifiedKFold(min(5, counts[labels].min()), shuffle=True, random_state=0)
    losses = np.zeros(len(labels))
    for train, held_out in folds.split(labels, labels):
        regression = _fit(views[train], labels[train], strength)
        scores = regression.predict_proba(views[held_out, 0])
        places = np.searchsorted(regression.classes_, labels[held_out])
        losses[held_out] = log_losses(scores, places)
    return losses


def log_losses(scores, labels):
    """Returns the log loss of each example, for its probabilities and its class."""
    found = scores[np.arange(len(labels)), labels]
    return -np.log(np.maximum(found, np.finfo("float32").tiny))


def fit(views, labels, is_balanced):
    """Fits a logistic regression; cross-validation chooses its regularization.

    Args:
        views: Features, `(examples, views, channels)`.
        labels: The classes, int `(examples,)`, at least two.
        is_balanced: Whether to weight classes by their inverse frequency.

    Returns:
        The `LogisticRegression`.
    """
    few = np.random.default_rng(0).permutation(len(labels))[:MAX_EXAMPLES_TO_CHOOSE]
    losses = [
        cross_validate(views[few], labels[few], each).mean() for each in STRENGTHS
    ]
    return _fit(views, labels, STRENGTHS[int(np.argmin(losses))], is_balanced)


def _fit(views, labels, strength, is_balanced=False):
    """Returns a logistic regression of all views, each with its share of the weight."""
    num_views = views.shape[1]
    regression = LogisticRegression(
        C=strength / num_views,
        max_iter=500,
        class_weight="balanced" if is_balanced else None,
    )
    features = views.reshape(len(labels) * num_views, -1)
    with threadpool_limits(1):  # More threads slow down its many small products.
        return regression.fit(features, np.repeat(labels, num_views))
