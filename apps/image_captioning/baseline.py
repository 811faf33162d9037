"""The baseline: the most usual caption of the most similar training images."""

import numpy as np
import tensorflow as tf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from apps.common import baselines
from apps.image_captioning import metrics
from apps.image_captioning.batches import image_sources

NUM_NEIGHBORS = 20
SIDE = 8  # Height and width in pixels of the copies that are compared.


def measure(splits, features, run):
    """Captions images like similar ones, and records and prints the scores.

    Of all captions of the nearest training images, the one is taken that has most
    words and pairs of words in common with the others.

    Args:
        splits: The `Examples` by split.
        features: Their `Features` by split; None compares small copies of the images.
        run: The run directory.

    Returns:
        The record: `name`, and for `validation` and `test` the `bleu_4` and the
        `cider`.

    Reference:
        [Devlin et al., 2015](https://arxiv.org/abs/1505.04467)
    """
    captions = splits["train"].captions
    what = "pixels" if features is None else "frozen features"
    number = min(NUM_NEIGHBORS, len(captions))
    images = "1 image" if number == 1 else f"{number} images"
    record = {"name": f"most usual caption of {images} with similar {what}"}
    vectors = {
        split: describe(examples, features and features[split])
        for split, examples in splits.items()
        if split in ("train", "validation", "test")
    }
    nearest = NearestNeighbors(n_neighbors=number).fit(vectors["train"])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    vectorizer.fit(splits["train"].all_captions)
    for split in ("validation", "test"):
        found = nearest.kneighbors(vectors[split], return_distance=False)
        written = [
            most_usual([caption for i in row for caption in captions[i]], vectorizer)
            for row in found
        ]
        scores = metrics.score(written, splits[split].captions)
        record[split] = {name: scores[name] for name in ("bleu_4", "cider")}
    baselines.write(run, record)
    return record


def describe(examples, features=None):
    """Returns a vector of length 1 for each image, float32 `(images, size)`.

    Args:
        examples: The `Examples`.
        features: Their `Features`, whose mean is taken. Defaults to None: the pixels of
            small copies.
    """
    if features is not None:
        view = features.views[0]
        vectors = [np.mean(row, axis=0, dtype="float32") for row in view]
    else:
        sources, read = image_sources(examples)
        copies = tf.data.Dataset.from_tensor_slices(sources).map(
            lambda source: tf.image.resize(read(source), (SIDE, SIDE), antialias=True),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        vectors = [copy.ravel() for copy in copies.as_numpy_iterator()]
    vectors = np.stack(vectors)
    return normalize(vectors - vectors.mean(axis=1, keepdims=True))


def most_usual(captions, vectorizer):
    """Returns the caption that is most similar to all of them."""
    vectors = vectorizer.transform(captions)
    similarity = np.asarray(vectors @ vectors.sum(axis=0).T)
    return captions[int(similarity.argmax())]
