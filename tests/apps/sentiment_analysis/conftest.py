"""The description of sentiment analysis for the application contract."""

import re

import numpy as np

from apps.sentiment_analysis.export import exam
from apps.sentiment_analysis.signatures import tokens_with_attention
from tests.apps.app_contract import App, fixtures, unreadable_texts

TEXTS = {
    "complaint": ("The lamp is broken", "This #LampFails 😡", 'It says "error" again'),
    "praise": ("I love this lamp", "SOOOO beautiful 😍", "My @friend wants one, too"),
    "question": ("How do I switch it on?", "When will it arrive?", "Is it 5 &amp; 9?"),
}


def table_rows(orders):
    """Returns a row for each class and order: a date, two of its texts, the class."""
    random = np.random.default_rng(0)
    rows = []
    for order in orders:
        for label, texts in TEXTS.items():
            text = " ".join(texts[j] for j in random.permutation(len(texts))[:2])
            rows.append(f"day {order}\t{text} (order {order})\t{label}\n")
    return rows


# One of each class.
NEW_TEXTS = [row.split("\t")[1] for row in table_rows([30])]


def write_customers(folder, orders=range(12)):
    """Writes what customers wrote: a text of each of 3 classes for each order."""
    path = folder / "customers.tsv"
    path.write_text("".join(["when\ttext\tlabel\n", *table_rows(orders)]), "utf-8")
    return path


def add_rows(path):
    header, *rows = path.read_text("utf-8").splitlines(keepends=True)
    more = table_rows(range(50, 53))
    path.write_text("".join([header, *more, *rows]), "utf-8")


def check_alike(answers, expected, engine, signature):
    def by_name(answers):
        assert (np.diff(answers["scores"], axis=1) <= 0).all()
        order = answers["classes"].astype(bytes).argsort(axis=1)
        return np.take_along_axis(answers["scores"], order, axis=1)

    np.testing.assert_allclose(by_name(answers), by_name(expected), atol=1e-3)
    if signature == "with_attention":
        rows = map(tokens_with_attention, (answers, expected))
        for (tokens, weights), (same_tokens, same_weights) in zip(*rows, strict=True):
            assert tokens == same_tokens
            np.testing.assert_allclose(weights, same_weights, atol=1e-3)
            np.testing.assert_allclose(weights.sum(), 1, atol=1e-3)


OUTPUTS = {"classes", "scores", "errors"}

APP = App(
    "sentiment_analysis",
    write_data=write_customers,
    add_data=add_rows,
    settings={
        "embedding_size": 16,
        "units": 16,
        "attention_units": 8,
        "patience": 9,
        "epochs": 10,
        "batch_size": 4,
        "learning_rate": 1e-2,
    },
    num_examples={"train": 24, "validation": 3, "test": 9},
    inputs=lambda table: [
        "The lamp is broken 😀 &amp; &#39; caf\u0301e",
        "I love it",
        "?",
        *(row.split("\t")[1] for row in table_rows(range(20, 24))),
    ],
    arguments=lambda table: NEW_TEXTS,
    answers=[
        rf"^{label} 0\.\d{{3}}, .*: {re.escape(text)}$"
        for label, text in zip(TEXTS, NEW_TEXTS, strict=True)
    ],
    device_answers=[
        rf"^{label} 0\.\d{{4}}\t.*\t{re.escape(text)}$"
        for label, text in zip(TEXTS, NEW_TEXTS, strict=True)
    ],
    signatures={
        "serving_default": ("text", OUTPUTS),
        "with_attention": ("text", {*OUTPUTS, "tokens", "attention"}),
        "tensors": ("token_ids", {"scores", "attention", "errors"}),
    },
    tensors=np.array([[5, 9, 7, 3], [8, 6, 0, 0]], "int32"),
    check_alike=check_alike,
    make_exam=lambda examples, config: exam(examples),
    spoil=lambda answers: {**answers, "classes": answers["classes"][:, ::-1]},
    metric="macro_recall",
    min_score=0.75,
    engines=["trained model", "SavedModel", "float32", "dynamic_range"],
    operations=["UNIDIRECTIONAL_SEQUENCE_LSTM"],
    bundle={"cleaning.json", "labels.txt", "tokenizer.model"},
    requirements=["sentencepiece>=0.2"],
    run_files=["model.keras", "tokenizer.model"],
    figures={"confusion_matrix.png", "reliability.png", "worst_mistakes.png"},
    unreadable=unreadable_texts,
    preset=("tweet", "tweets"),
    released={
        "SavedModel": {"macro_recall": 0.63, "accuracy": 0.6},
        "dynamic_range": {"macro_recall": 0.63, "accuracy": 0.6},
    },
    max_released_mb=15,
    stock_imports="tensorflow_text",
)

globals().update(fixtures(APP))
