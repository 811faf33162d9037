"""The description of translation for the application contract."""

import re

import numpy as np
from num2words import num2words

from apps.translation.export import exam
from apps.translation.signatures import alignments
from tests.apps.app_contract import App, fixtures, unreadable_texts


def make_pairs(number, seed=0):
    """Returns numbers below 1000 in German and in English, whose word order differs."""
    chosen = np.random.default_rng(seed).permutation(1000)[:number]
    return [(num2words(int(n), lang="de"), num2words(int(n))) for n in chosen]


def write_table(path, number=600, columns=("source", "target"), seed=0):
    """Writes pairs as users have them, with a column that is not needed."""
    separator = "," if ".csv" in path.name else "\t"
    rows = [("number", *columns)]
    rows += [(str(i), *pair) for i, pair in enumerate(make_pairs(number, seed))]
    path.write_text("\n".join(map(separator.join, rows)) + "\n", "utf-8")
    return path


# A training of seconds that learns most of the numbers.
SMALL = {
    "vocabulary_size": 100,
    "validation_fraction": 0.1,
    "subword_sampling_alpha": 0.0,
    "max_tokens": 50,
    "embedding_size": 48,
    "encoder_units": 32,
    "decoder_units": 64,
    "attention_units": 48,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
    "epochs": 10,
    "batch_size": 8,
    "learning_rate": 2e-2,
    "label_smoothing": 0.0,
    "beam_size": 3,
}


def add_rows(path):
    header, *rows = path.read_text("utf-8").splitlines(keepends=True)
    more = [
        f"{n}\t{num2words(n, lang='de')}\t{num2words(n)}\n" for n in range(1001, 1041)
    ]
    path.write_text("".join([header, *more, *rows]), "utf-8")


def inputs(table):
    """Returns numbers, a long text, an empty one and one with unknown characters."""
    sentences = [source for source, _ in make_pairs(12, seed=5)]
    return [*sentences, ". ".join(sentences * 3), "", "ZWEI 你好 \u200bdrei\u00a0vier"]


def check_alike(answers, expected, engine, signature):
    # Exported variables have half precision, but those of the variant float32 have not.
    same, tolerance = (1.0, 1e-3) if engine == "float32" else (0.9, 0.02)
    is_alike = answers["translations"] == expected["translations"]
    assert is_alike.mean() >= same
    assert len(set(answers["translations"][:12])) > 4
    scores = answers["scores"][is_alike]
    np.testing.assert_allclose(scores, expected["scores"][is_alike], atol=tolerance)
    if signature == "with_attention":
        rows = zip(alignments(answers), alignments(expected), is_alike, strict=True)
        for (source, target, weights), (same_source, same_target, same), alike in rows:
            assert source == same_source
            if alike and target == same_target:
                np.testing.assert_allclose(weights, same, atol=tolerance)


TEXTS = ["vierzig", "zwanzig", "zweihunderteins"]
OUTPUTS = {"translations", "scores", "errors"}
ALIGNMENTS = {"source_tokens", "target_tokens", "attention"}

APP = App(
    "translation",
    write_data=lambda folder: write_table(folder / "numbers.tsv", 400),
    add_data=add_rows,
    settings=SMALL,
    num_examples={"train": 270, "validation": 30, "test": 100},
    inputs=inputs,
    arguments=lambda table: TEXTS,
    answers=[rf"^{re.escape(text)}\t\w+" for text in TEXTS],
    device_answers=[r"^\w+"] * len(TEXTS),
    signatures={
        "serving_default": ("text", OUTPUTS),
        "greedy": ("text", OUTPUTS),
        "with_attention": ("text", OUTPUTS | ALIGNMENTS),
        "tensors": ("token_ids", {"token_ids", "scores", "errors"}),
    },
    tensors=np.array([[5, 9, 7, 3], [8, 6, 3, 0]], "int32"),
    tolerance=0.02,
    check_alike=check_alike,
    make_exam=lambda examples, config: exam(examples, config.target_column),
    spoil=lambda answers: {
        **answers,
        "translations": np.full_like(answers["translations"], b"no number"),
    },
    metric="chrf",
    min_score=70,
    engines=["trained model", "SavedModel", "float32", "float16", "dynamic_range"],
    operations=["UNIDIRECTIONAL_SEQUENCE_LSTM"],
    bundle={"search.json", "source.model"},
    requirements=["sentencepiece>=0.2"],
    run_files=["model.keras", "source.model"],
    figures={"bleu_by_length.png", "typical.png", "worst.png"},
    unreadable=unreadable_texts,
    preset=("multi30k_en_ed", "multi30k_en_de"),
    released={
        "SavedModel": {"bleu": 37.5, "chrf": 61.5},
        "float16": {"bleu": 37.5, "chrf": 61.5},
    },
    max_released_mb=30,
    stock_imports="tensorflow_text",
    counted="sentences",
)

globals().update(fixtures(APP))
