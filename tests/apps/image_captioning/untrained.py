"""A captioner of shapes with random weights, and a run that holds it.

The weights are large, so that every token matters and captions vary in length.
"""

import functools

import numpy as np

from apps.common import runs
from apps.common.tokenizer import END, Tokenizer, train_tokenizer
from apps.image_captioning.config import Config
from apps.image_captioning.data import clean
from apps.image_captioning.model import build_model
from apps.image_captioning.signatures import Captioner, save_tokenizer
from tests.apps.image_captioning import shapes

SETTINGS = {
    **shapes.SMALL,
    "backbone_output": "block_4",
    "feature_size": 7,
    "attention_units": 4,
    "units": 12,
    "embedding_size": 12,
}


def random_images(number, size=32):
    """Returns images of random spots, float32 `(number, size, size, 3)`."""
    random = np.random.default_rng(0)
    spots = random.integers(0, 256, (number, size // 8, size // 8, 3))
    return spots.repeat(8, 1).repeat(8, 2).astype("float32")


def make_model(vocabulary_size=20, **changes):
    """Returns a small model with large random weights, always the same."""
    # Not `keras.utils.set_random_seed`: it deletes TensorFlow's tokenizers.
    model = build_model(
        config=Config("", **{**SETTINGS, **changes}), vocabulary_size=vocabulary_size
    )
    random = np.random.default_rng(0)
    for weight in model.network.weights:
        if len(weight.shape) == 4:
            size = np.prod(weight.shape[:3]) ** -0.5
            weight.assign(random.normal(0, 1.5 * size, weight.shape))
        else:  # Of batch normalization, its statistics included.
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    random = np.random.default_rng(2)
    for weight in (
        *model.reduction.weights,
        *model.decoder.trainable_weights,
        model.positions,
    ):
        weight.assign(random.normal(0, 0.6, weight.shape))
    # Features that hardly differ would have the same captions.
    features = model.normalization(model.extract(random_images(16)))
    mean, deviation = np.mean(features, (0, 1)), np.std(features, (0, 1))
    model.normalization.set_weights([1 / deviation, -mean / deviation])
    embeddings = model.decoder.embedding.embeddings
    likely_end = np.where(np.arange(vocabulary_size) == END, 2, 1)[:, None]
    embeddings.assign(embeddings * likely_end)
    return model


@functools.cache
def tokenizer_file(token):
    """Returns the model file of a tokenizer of captions."""
    return train_tokenizer(
        [clean(each) for seed in range(9) for each in shapes.captions(seed)], 40, token
    ).model


def make_captioner(**settings):
    """Returns a captioner of shapes."""
    config = Config("", **{**SETTINGS, **settings})
    tokenizer = Tokenizer(tokenizer_file(config.token))
    changes = {"attention": config.attention}
    return Captioner(make_model(len(tokenizer), **changes), tokenizer, config)


def write_run(run, data):
    """Writes a run that ended with this captioner.

    Args:
        run: The run directory.
        data: The folder of its data.
    """
    captioner = make_captioner()
    runs.start(Config(str(data), **SETTINGS), run, {})
    save_tokenizer(captioner.tokenizer, run)
    captioner.model.save(run / "model.keras")
    return run
