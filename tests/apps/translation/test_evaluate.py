import json

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.common.predictors import RefusedInput
from apps.common.tokenizer import END_TOKEN
from apps.translation.config import Config
from apps.translation.data import Examples, read_pairs
from apps.translation.evaluate import Scores, draw, evaluate, score, summarize
from tests.apps.translation.conftest import write_table
from tests.apps.translation.untrained import write_run

FIGURES = {"bleu_by_length.png", "worst.png", "typical.png"}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return str(write_run(tmp_path_factory.mktemp("runs") / "untrained"))


def predictor(texts):
    """Translates every text to itself, in capitals."""
    answers = {
        "translations": [text.upper().encode() for text in texts],
        "source_tokens": [f"{text.strip()} {END_TOKEN}".encode() for text in texts],
        "target_tokens": [b"a b"] * len(texts),
        "attention": [
            "\n".join([" ".join("1" * (len(text.split()) + 1))] * 2).encode()
            for text in texts
        ],
    }
    return {name: np.array(value, object) for name, value in answers.items()}


EXAMPLES = Examples(["a b", "a", "b " * 9], ["A B", "B", "B " * 9])


def test_sentences_are_translated_in_their_order():
    scores = score(predictor, EXAMPLES)
    assert scores.translations == ["A B", "A", "B " * 9]
    assert scores.examples is EXAMPLES
    assert scores.seconds > 0


def test_a_refused_sentence_is_quoted():
    def refuse(texts):
        if "a" in texts and len(texts) > 1:
            raise RefusedInput(1 + texts.index("a"), "it is too short")
        return predictor(texts)

    with pytest.raises(BadInput, match='the model refuses "a": it is too short'):
        score(refuse, EXAMPLES)


def test_the_report_has_both_searches():
    examples = Examples(["a b", "a"], ["das ist so", "ja"])
    beam = Scores(["das ist so", "ja"], examples, 0.5)
    greedy = Scores(["das ist so", "nein"], examples, 0.25)
    report = summarize({"greedy": greedy, "beam": beam}, "de")
    assert report["sentences"] == 2
    assert report["sentences_per_second"] == 4
    assert report["greedy"]["sentences_per_second"] == 8
    assert (report["exact"], report["greedy"]["exact"]) == (1, 0.5)
    assert report["bleu"] == pytest.approx(100)
    assert "(de)" in report["signatures"]["bleu_lowercased_tokenized"]
    assert [row["sentences"] for row in report["by_length"]] == [2]
    assert json.loads(json.dumps(report)) == report


def test_figures_are_drawn(tmp_path):
    scores = score(predictor, EXAMPLES)
    report = summarize({"greedy": scores, "beam": scores}, "de")
    draw(scores, report, predictor, tmp_path / "deep")
    assert {path.name for path in (tmp_path / "deep").iterdir()} == FIGURES


def test_other_data_with_other_columns_is_scored_whole(untrained, tmp_path, capsys):
    columns = ("deutsch", "englisch")
    table = write_table(tmp_path / "other.csv", 30, columns, seed=9)
    settings = {"source_column": "deutsch", "target_column": "englisch"}
    figures = {"figures_folder": tmp_path / "figures"}
    report = evaluate(untrained, str(table), **settings, **figures)
    assert report["sentences"] == 30
    assert f"30 sentences of {table}" in capsys.readouterr().out
    # The same pairs in two text files.
    pairs = read_pairs(Config(str(table), **settings))
    paths = [tmp_path / "other.de", tmp_path / "other.en"]
    for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("\n".join(side) + "\n")
    source, target = map(str, paths)
    again = evaluate(untrained, source, target_data=target, **figures)
    assert again["sentences"] == 30
    assert again["chrf"] == pytest.approx(report["chrf"])
    assert f"figures: {tmp_path / 'figures'}" in capsys.readouterr().out


def test_translations_without_their_sentences_are_refused(untrained, tmp_path):
    with pytest.raises(BadInput, match=r"--target-data a\.en belongs to --data"):
        evaluate(untrained, target_data="a.en", figures_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_is_refused(untrained, tmp_path):
    with pytest.raises(BadInput, match="has no split 'tets'; did you mean 'test'"):
        evaluate(untrained, split="tets", figures_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
