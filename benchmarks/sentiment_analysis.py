"""Scores of a linear model, for comparison, and the start-up time of the bundle.

    python -m benchmarks.sentiment_analysis

The linear model is scikit-learn's: TF-IDF of words, word pairs and groups of 2 to 5
letters, and a support vector machine. Its `C` is the best on the validation texts.
"""

import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

from apps.sentiment_analysis.config import CONFIGS
from apps.sentiment_analysis.data import load_examples
from benchmarks.measure import bundle_start

RELEASED = Path("saved_models/sentiment_analysis")
STRENGTHS = (0.03, 0.1, 0.3, 1.0)  # Values of `C`.


def linear_model(strength):
    """Returns TF-IDF of words and letters with a linear support vector machine."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    letters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3
    )
    machine = LinearSVC(C=strength, class_weight="balanced", random_state=0)
    return make_pipeline(make_union(words, letters), machine)


def linear_recall(splits):
    """Returns the macro recall of the linear model on the test texts."""

    def recall(model, split):
        return balanced_accuracy_score(split.labels, model.predict(split.texts))

    models = [
        linear_model(strength).fit(splits["train"].texts, splits["train"].labels)
        for strength in STRENGTHS
    ]
    best = max(models, key=lambda model: recall(model, splits["validation"]))
    return recall(best, splits["test"])


def main():
    """Prints the tables."""
    print("Macro recall on the test texts")
    for name, preset in CONFIGS.items():
        config = preset()
        if name != "sentences" and not Path(config.data).exists():
            print(f"  {name}: skipped, {config.data} does not exist")
            continue
        recall = linear_recall(load_examples(config))
        print(f"  {name:10} TF-IDF and linear SVM {recall:8.4f}")

    seconds, megabytes = bundle_start(RELEASED / "edge", "what a lovely day")
    print("Edge bundle, from start to answer")
    print(f"  {seconds:.2f} s, {megabytes:.0f} MB peak memory")


if __name__ == "__main__":
    main()
