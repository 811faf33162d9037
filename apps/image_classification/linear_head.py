"""The linear head: a logistic regression on frozen features, where training starts."""

import dataclasses
import io
import itertools
import sys

import keras
import numpy as np
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from apps.common import backbones, datasets, runs
from apps.common.errors import BadInput
from apps.image_classification.config import BACKBONES, RESIZINGS
from apps.image_classification.data import make_batches
from apps.image_classification.model import truncate

# Images whose features are extracted at most, for the head and for the choice of the
# backbone.
MAX_EXAMPLES = 5000
MAX_EXAMPLES_TO_CHOOSE = 500
# Height and width of the small copies whose pixels a baseline classifies.
MAX_SIDE = 16
# The inverse strengths of the regularization that are tried.
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def choose(config, examples):
    """Replaces `auto` settings by those with the best features for these images.

    Features are compared by the cross-validated log loss of a logistic regression.

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
            backbone = truncate(backbone, config.backbone_output)
        inputs = keras.Input(shape)
        pooled = keras.layers.GlobalAveragePooling2D()(backbone(preprocess(inputs)))
        features = extract(keras.Model(inputs, pooled), few, candidate)
        loss = cross_validate(features, few.labels, 1.0)
        print(f"{name}, {resize}: cross-validated log loss {loss:.3f}")
        losses[candidate] = loss
    return min(losses, key=losses.get)


def draw(examples, num_examples, seed):
    """Returns at most so many of the examples, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return datasets.take(examples, np.sort(order[:num_examples]))


def extract(extractor, examples, config):
    """Returns the features of images, float32 `(examples, channels)`."""
    return extractor.predict(make_batches(examples, config), verbose=0)


def load_features(model, splits, config, run):
    """Extracts features of each split, or loads those that the run has.

    Args:
        model: A model from `build_model` with a frozen or pretrained backbone.
        splits: `Examples` by split; at most `MAX_EXAMPLES` of each are used.
        config: Its `Config`.
        run: The run directory; `features.npz` keeps the features there.

    Returns:
        By split, the features, float32 `(examples, channels)`, and the labels, int
        `(examples,)`. Without pretrained weights the features are the pixels of small
        copies of the images.
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
    for split, examples in splits.items():
        some = draw(examples, MAX_EXAMPLES, config.seed)
        parts[split] = extract(extractor, some, config), some.labels
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
        features, labels = parts[split]
        labels = keras.utils.to_categorical(labels, head.units)
        values = classifier.evaluate(features, labels, verbose=0, return_dict=True)
        logs |= {f"{prefix}{name}": value for name, value in values.items()}
    return logs


def log_loss():
    """Returns the metric that chooses the best epoch: the loss without smoothing."""
    return keras.metrics.CategoricalCrossentropy(name="log_loss")


def cross_validate(features, labels, strength):
    """Returns the log loss of a logistic regression by cross-validation.

    Args:
        features: `(examples, channels)`.
        labels: The classes, int `(examples,)`. Classes with one example are left out.
        strength: The inverse strength of the regularization.
    """
    counts = np.bincount(labels)
    is_used = counts[labels] > 1
    features, labels = features[is_used], labels[is_used]
    folds = StratifiedKFold(min(5, counts[labels].min()), shuffle=True, random_state=0)
    with threadpool_limits(1):  # More threads slow down its many small products.
        scores = cross_val_predict(
            _regression(strength), features, labels, cv=folds, method="predict_proba"
        )
    return metrics.log_loss(labels, scores)


def fit(features, labels, is_balanced):
    """Fits a logistic regression; cross-validation chooses its regularization.

    Args:
        features: `(examples, channels)`.
        labels: The classes, int `(examples,)`, at least two.
        is_balanced: Whether to weight classes by their inverse frequency.

    Returns:
        The `LogisticRegression`.
    """
    few = np.random.default_rng(0).permutation(len(labels))[:MAX_EXAMPLES_TO_CHOOSE]
    losses = [cross_validate(features[few], labels[few], each) for each in STRENGTHS]
    strength = STRENGTHS[int(np.argmin(losses))]
    with threadpool_limits(1):  # As in `cross_validate`.
        return _regression(strength, is_balanced).fit(features, labels)


def _regression(strength, is_balanced=False):
    class_weight = "balanced" if is_balanced else None
    return LogisticRegression(C=strength, max_iter=500, class_weight=class_weight)
