import json

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.translation import metrics
from apps.translation.data import Pairs, load_split
from apps.translation.evaluate import Translations, evaluate, summarize
from tests.apps.translation.conftest import write_table

PICTURES = {"bleu_by_length.png", "worst.png", "typical.png"}


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_report_tells_everything(run, config, tmp_path, capsys):
    found = evaluate(str(run), json=True, pictures_folder=tmp_path / "deep/pictures")
    report = last_line(capsys)
    assert set(report) >= {
        "bleu",
        "bleu_lowercased_tokenized",
        "chrf",
        "exact",
        "sentences_per_second",
        "sentences",
        "signatures",
        "greedy",
        "by_length",
    }
    pairs = load_split(config, "test")
    assert found.pairs == pairs
    assert report["sentences"] == len(pairs) == 150
    assert sum(row["sentences"] for row in report["by_length"]) == 150
    expected = metrics.score(found.translations, pairs.targets, config.target_column)
    for name in ("bleu", "bleu_lowercased_tokenized", "chrf", "exact"):
        assert report[name] == pytest.approx(expected[name])
        assert report["greedy"][name] > 0
    assert report["bleu"] > 10
    assert report["sentences_per_second"] > 0
    assert {path.name for path in (tmp_path / "deep/pictures").iterdir()} == PICTURES


def test_other_data_with_other_columns_is_scored_whole(run, exported, tmp_path, capsys):
    columns = ("deutsch", "englisch")
    foreign = write_table(tmp_path / "foreign.csv", 30, columns, seed=9)
    for model in (run, exported / "1", exported / "edge"):
        found = evaluate(
            str(model),
            str(foreign),
            source_column="deutsch",
            target_column="englisch",
            pictures_folder=tmp_path / "pictures",
        )
        assert len(found.translations) == 30
        assert "30 sentences of" in capsys.readouterr().out
    sources, targets = (tmp_path / f"foreign.{name}" for name in ("de", "en"))
    sources.write_text("\n".join(found.pairs.sources[:20]) + "\n")
    targets.write_text("\n".join(found.pairs.targets[:20]) + "\n")
    again = evaluate(
        str(exported / "edge"),
        str(sources),
        str(targets),
        pictures_folder=tmp_path / "pictures",
    )
    assert again.translations == found.translations[:20]


def test_an_unknown_split_is_refused(run, tmp_path):
    with pytest.raises(BadInput, match="has no split 'tets'; did you mean 'test'"):
        evaluate(str(run), split="tets", pictures_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_both_searches_have_their_own_speed():
    pairs = Pairs(["a b", "a"], ["das ist so", "ja"])
    beam = Translations(["das ist so", "ja"], pairs, 0.5)
    greedy = Translations(["das ist so", "nein"], pairs, 0.25)
    report = summarize({"greedy": greedy, "beam": beam}, "de")
    assert report["sentences_per_second"] == 4
    assert report["greedy"]["sentences_per_second"] == 8
    assert (report["exact"], report["greedy"]["exact"]) == (1, 0.5)
    assert "(de)" in report["signatures"]["bleu_lowercased_tokenized"]
    assert [row["sentences"] for row in report["by_length"]] == [2]
    assert np.isfinite(report["bleu"])
    assert json.loads(json.dumps(report)) == report
