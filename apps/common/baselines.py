"""The simple model that every score is printed beside.

A training fits it in seconds on its own training split, prints its validation scores,
and records all its scores in the run. Cards and `evaluate` repeat them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from apps.common import runs
from apps.common.predictors import training_record


def of_features() -> LogisticRegression:
    """Returns a logistic regression, for features of a frozen backbone or pixels."""
    return LogisticRegression(max_iter=1000)


def of_texts(is_balanced: bool) -> Pipeline:
    """Returns a linear SVM on TF-IDF features of words, punctuation and their pairs.

    Args:
        is_balanced: Whether to weight classes by the inverse of their frequency.
    """
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]"
    )
    class_weight = "balanced" if is_balanced else None
    return make_pipeline(
        vectorizer, LinearSVC(class_weight=class_weight, random_state=0)
    )


def measure(
    run: Path,
    name: str,
    classifier: Any,
    splits: Mapping[str, tuple[Any, np.ndarray]],
) -> dict[str, Any]:
    """Fits a baseline, records its scores in the run, and prints the validation's.

    Args:
        run: The run directory.
        name: What the baseline is, such as "TF-IDF with a linear SVM".
        classifier: A classifier of scikit-learn.
        splits: The inputs and the classes, int `(examples,)`, of `train`,
            `validation` and `test`.

    Returns:
        The record: `name`, and for `validation` and `test` the `accuracy` and the
        `macro_recall`. Before the test it is fitted on both other splits, because it
        has no epochs to choose.
    """
    both = [
        _join(*parts)
        for parts in zip(splits["train"], splits["validation"], strict=True)
    ]
    record: dict[str, Any] = {"name": name}
    for split, examples in (("validation", splits["train"]), ("test", both)):
        with threadpool_limits(1):  # More threads are slower on small data.
            classifier.fit(*examples)
        inputs, labels = splits[split]
        predictions = classifier.predict(inputs)
        record[split] = {
            "accuracy": metrics.accuracy_score(labels, predictions),
            "macro_recall": metrics.recall_score(
                labels, predictions, average="macro", zero_division=0
            ),
        }
    write(run, record)
    return record


def write(run: Path, record: Mapping[str, Any]) -> None:
    """Records the scores of a baseline in the run, and prints those of the validation.

    Args:
        run: The run directory.
        record: The `name` of the baseline, and its scores by split.
    """
    runs.write_json(run / "baseline.json", record)
    print(f"baseline on validation: {describe(record, 'validation')}")


def _join(first, second):
    """Returns two arrays, or two lists, as one."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return [*first, *second]


def read(model: str) -> dict[str, Any] | None:
    """Returns the record of the baseline of a model, or None if it has none.

    Args:
        model: As `predictors.load_predictor` takes it. A run has `baseline.json`; the
            card of an exported model repeats it.
    """
    folder = training_record(model)
    if folder is None:
        return None
    if (folder / "baseline.json").exists():
        return json.loads((folder / "baseline.json").read_text())
    if (folder / "card.json").exists():
        return json.loads((folder / "card.json").read_text()).get("baseline")
    return None


def beside(model: str, split: str, is_other_data: bool) -> dict[str, Any] | None:
    """Returns the scores of a model's baseline on one split, and its `name`.

    Args:
        model: As `predictors.load_predictor` takes it.
        split: The split that is evaluated.
        is_other_data: Whether it is other data than the model was trained on.

    Returns:
        None if the training did not measure a baseline there.
    """
    record = read(model)
    if is_other_data or not record or split not in record:
        return None
    return {"name": record["name"], **record[split]}


def describe(record: Mapping[str, Any], split: str) -> str:
    """Returns the scores of a baseline on one split, in words."""
    scores = ", ".join(
        f"{_words(name)} {value:.4f}" for name, value in record[split].items()
    )
    return f"{scores} ({record['name']})"


def print_verdict(
    record: Mapping[str, Any],
    metric: str,
    value: float,
    advice: str,
    higher_is_better: bool = True,
) -> None:
    """Prints the validation score of a finished training beside its baseline's.

    Args:
        record: From `measure`, or as `write` takes it.
        metric: The name of a score in the record, such as `accuracy`.
        value: The validation score of the trained model.
        advice: What to try if it is worse than the baseline.
        higher_is_better: Whether a larger value of the metric is better. Defaults to
            True.
    """
    baseline = record["validation"][metric]
    words = _words(metric)
    print(f"validation {words} {value:.4f}, baseline {baseline:.4f} ({record['name']})")
    gain = value - baseline if higher_is_better else baseline - value
    if gain < -1e-6:  # Keras computes in float32.
        print(f"this is worse than the baseline; {advice}")


def _words(metric):
    """Returns the name of a metric in words."""
    names = {"map": "mAP", "ap50": "AP50", "wer": "WER"}
    return names.get(metric, metric.replace("_", " "))
