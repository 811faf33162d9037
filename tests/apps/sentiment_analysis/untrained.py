"""A classifier of the built-in sentences with random weights, and a run that holds it.

The weights are large, so that every token changes the scores.
"""

import functools

import numpy as np

from apps.common import runs
from apps.sentiment_analysis.config import sentences as preset
from apps.sentiment_analysis.embedded import sentences
from apps.sentiment_analysis.model import build_model
from apps.sentiment_analysis.signatures import Classifier
from apps.sentiment_analysis.tokenizer import Tokenizer, train_tokenizer

CLASSES = ("negative", "neutral", "positive")


def make_model(vocabulary_size, dropout=0.0, num_buckets=16):
    """Returns a small model with large random weights, always the same."""
    model = build_model(
        vocabulary_size=vocabulary_size,
        num_classes=len(CLASSES),
        embedding_size=8,
        units=6,
        attention_units=5,
        embedding_dropout=dropout,
        dropout=dropout,
        num_buckets=num_buckets,
        has_padding=True,
    )
    random = np.random.default_rng(1)
    model.set_weights([random.normal(0, 0.7, w.shape) for w in model.get_weights()])
    if num_buckets:  # Every bucket of pairs belongs to some token.
        first_tokens = model.get_layer("linear").first_tokens
        first_tokens.assign(random.integers(1, vocabulary_size, first_tokens.shape))
    return model


@functools.cache
def tokenizer_file():
    """Returns the model file of a tokenizer for the built-in sentences."""
    return train_tokenizer([text for text, _ in sentences(300)], 200).model


def make_classifier():
    """Returns a classifier of the built-in sentences."""
    # Not cached: `keras.utils.set_random_seed` deletes TensorFlow's tokenizers.
    tokenizer = Tokenizer(tokenizer_file())
    return Classifier(make_model(len(tokenizer)), CLASSES, tokenizer)


def write_run(run):
    """Writes a run of the preset `sentences` with this classifier."""
    runs.start(preset(), run, {})
    runs.write_json(run / "classes.json", CLASSES)
    runs.write_bytes(run / "tokenizer.model", tokenizer_file())
    make_classifier().model.save(run / "model.keras")
    return run
