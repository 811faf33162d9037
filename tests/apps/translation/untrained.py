"""A translator of number words with random weights, and a run that holds it.

The weights are large, so that every token matters and translations vary in length.
"""

import dataclasses
import functools

import numpy as np

from apps.common import runs
from apps.common.tokenizer import END, Tokenizer, train_tokenizer
from apps.translation.config import Config
from apps.translation.config import numbers as preset
from apps.translation.model import EncoderDecoder
from apps.translation.signatures import Translator, save_tokenizers
from tests.apps.translation.conftest import make_pairs

SIZES = {
    "embedding_size": 8,
    "encoder_units": 5,
    "decoder_units": 6,
    "attention": "additive",
    "attention_units": 4,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
    "scheduled_sampling": False,
}


def make_model(source=20, target=None, **changes):
    """Returns a small model with large random weights, always the same."""
    # Not `keras.utils.set_random_seed`: it deletes TensorFlow's tokenizers.
    model = EncoderDecoder(
        source_vocabulary_size=source,
        target_vocabulary_size=target,
        **{**SIZES, **changes},
    )
    model([np.ones((1, 2), "int32")] * 2)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(random.normal(0, 0.7, weight.shape))
    embeddings = model.decoder.embedding.embeddings
    likely_end = np.where(np.arange(target or source) == END, 1.8, 1)[:, None]
    embeddings.assign(embeddings * likely_end)
    return model


@functools.cache
def tokenizer_files():
    """Returns the model files of a joint, a source and a target tokenizer."""
    sources, targets = zip(*make_pairs(300), strict=True)
    texts = ([*sources, *targets], sources, targets)
    sizes = (100, 60, 50)
    return [train_tokenizer(*each).model for each in zip(texts, sizes, strict=True)]


def make_translator(is_joint=True, **settings):
    """Returns a translator of numbers, from German to English."""
    joint, source, target = map(Tokenizer, tokenizer_files())
    tokenizers = [joint] * 2 if is_joint else [source, target]
    model = make_model(len(tokenizers[0]), None if is_joint else len(tokenizers[1]))
    settings = {"max_tokens": 50, "beam_size": 3, **settings}
    return Translator(model, tokenizers, Config("numbers", **settings))


def write_run(run):
    """Writes a run of German to English numbers with this translator."""
    translator = make_translator()
    columns = {"source_column": "de", "target_column": "en"}
    config = dataclasses.replace(preset(), max_tokens=50, beam_size=3, **columns)
    runs.start(config, run, {})
    save_tokenizers(translator.tokenizers, run)
    translator.model.save(run / "model.keras")
    return run
