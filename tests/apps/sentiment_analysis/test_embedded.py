import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from apps.sentiment_analysis.embedded import ADJECTIVES, make_clause, sentences


def test_sentences_are_balanced_and_different():
    rows = sentences()
    assert len(rows) == len({text for text, _ in rows}) == 3000
    labels = [label for _, label in rows]
    for name in ("negative", "neutral", "positive"):
        assert labels.count(name) == 1000
    assert sentences(50) == rows[:50]
    assert sentences(50, seed=1) != rows[:50]


@pytest.mark.parametrize("name", ["negative", "neutral", "positive"])
def test_clauses_have_the_wanted_class(name):
    """A plain rule: the class of the adjective, reversed by a negation."""
    random = np.random.default_rng(0)
    reversed_name = {"negative": "positive", "positive": "negative"}
    for _ in range(300):
        clause = make_clause(name, random)
        words = clause.split()
        found = [
            each
            for each, adjectives in ADJECTIVES.items()
            for word in words
            if word in adjectives
        ]
        negations = (" not ", "never", "but", "nobody")
        if "neither" in clause:
            assert sorted(found) == ["negative", "positive"]
            assert name == "neutral"
        else:
            (adjective,) = found
            is_negated = any(each in clause for each in negations)
            assert (reversed_name[adjective] if is_negated else adjective) == name


def test_bags_of_words_cannot_tell_the_classes_apart():
    """`test_train` shows that the trained model can."""
    texts, labels = zip(*sentences(), strict=True)
    model = make_pipeline(TfidfVectorizer(), LinearSVC())
    model.fit(texts[:2250], labels[:2250])
    assert model.score(texts[2250:], labels[2250:]) < 0.9
