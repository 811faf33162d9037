import json

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from apps.image_captioning import baseline, metrics
from apps.image_captioning.batches import Features
from tests.apps.image_captioning.tiny import COLORS, make_examples


def make_features(groups, seed=0):
    """Returns features of images that are alike in each group."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(6, 1, 16))
    made = Features([])
    rows = centers[groups] + random.normal(0, 0.05, (len(groups), 4, 16))
    made.views = [rows.astype("float16"), 0 * rows]
    return made


SIZES = {"train": 240, "validation": 12, "test": 6}
SPLITS = {split: make_examples(number) for split, number in SIZES.items()}


def test_images_get_the_captions_of_similar_ones(tmp_path, capsys):
    features = {
        split: make_features(np.arange(number) % 6, seed)
        for seed, (split, number) in enumerate(SIZES.items())
    }
    for given, what in ((features, "frozen features"), (None, "pixels")):
        record = baseline.measure(SPLITS, given, tmp_path)
        name = f"most usual caption of 20 images with similar {what}"
        assert record["name"] == name
        assert json.loads((tmp_path / "baseline.json").read_text()) == record
        for split in ("validation", "test"):
            assert set(record[split]) == {"bleu_4", "cider"}
        # The nearest images have the same colour, so the captions are right.
        captions = [f"a {color} wall" for color in COLORS]
        scores = metrics.score(captions, SPLITS["test"].captions)
        assert record["test"] == {name: scores[name] for name in ("bleu_4", "cider")}
        assert scores["cider"] > 3
        assert "baseline on validation: bleu 4 " in capsys.readouterr().out


def test_few_images_are_all_neighbors(tmp_path):
    splits = {**SPLITS, "train": make_examples(5)}
    record = baseline.measure(splits, None, tmp_path)
    assert record["name"] == "most usual caption of 5 images with similar pixels"
    one = baseline.measure({**SPLITS, "train": make_examples(1)}, None, tmp_path)
    assert one["name"] == "most usual caption of 1 image with similar pixels"
    # All images get the same caption.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    captions = [each for row in splits["train"].captions for each in row]
    caption = baseline.most_usual(captions, vectorizer.fit(captions))
    scores = metrics.score([caption] * 6, splits["test"].captions)
    assert record["test"]["cider"] == scores["cider"]


def test_features_are_described_by_their_mean():
    features = make_features([0, 1, 2])
    vectors = baseline.describe(make_examples(3), features)
    mean = features.views[0].astype("float64").mean(axis=1)
    mean -= mean.mean(axis=1, keepdims=True)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)


def test_pixels_are_described_without_their_brightness():
    vectors = baseline.describe(make_examples(6))
    assert vectors.shape == (6, 8 * 8 * 3)
    red, black = vectors[0], vectors[4]
    np.testing.assert_allclose(np.linalg.norm(red), 1, rtol=1e-5)
    np.testing.assert_allclose(black, 0, atol=1e-6)
    assert red[0] > 0 > red[1]


def test_the_most_usual_caption_has_most_words_in_common():
    captions = [
        "a dog on the beach",
        "the sea",
        "a black dog runs on the beach",
        "a dog runs on grass",
        "two boys",
    ]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    vectors = vectorizer.fit_transform(captions).toarray()
    expected = captions[(vectors @ vectors.T).sum(axis=1).argmax()]
    assert baseline.most_usual(captions, vectorizer) == expected
    assert "dog" in expected
    # Of equal ones the first is taken.
    assert baseline.most_usual(["two boys", "the sea"], vectorizer) == "two boys"
