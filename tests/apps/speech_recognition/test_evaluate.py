import json

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.speech_recognition import metrics
from apps.speech_recognition.data import Examples
from apps.speech_recognition.evaluate import (
    Scores,
    add_noise,
    draw,
    evaluate,
    print_report,
    score,
    summarize,
)
from tests.apps.speech_recognition import tones

NO_TIMES = [[], [], []]
EXAMPLES = Examples(
    ["a.wav", "b.wav", "c.wav"],
    [np.full(n, 0.1, "float32") for n in (8_000, 4_000, 4_000)],
    ["one two", "two", "three"],
    ["ann", "bob", "ann"],
)


def test_the_errors_are_counted():
    texts = ["one two three", "four"]
    found = metrics.error_rates(texts, ["one too three more", "four"])
    kinds = ("substitutions", "insertions", "deletions")
    assert [found[kind] for kind in kinds] == [1, 1, 0]
    assert found["wer"] == pytest.approx(2 / 4)
    # "two" → "too" is one letter; " more" are five.
    assert found["cer"] == pytest.approx(6 / len("one two threefour"))
    assert (found["words"], found["accuracy"]) == (4, 0.5)


def test_nothing_was_said_or_recognized():
    found = metrics.error_rates(["", "one"], ["two", ""])
    assert (found["insertions"], found["deletions"]) == (1, 1)


def test_the_report_has_both_searches_and_each_speaker():
    greedy = Scores(["one two", "too", "tree"], NO_TIMES, 0.5)
    beam = Scores(["one two", "too", "three"], NO_TIMES, 1.0)
    report = summarize({"greedy": greedy, "beam": beam}, EXAMPLES, 8_000)
    assert report["wer"] == pytest.approx(1 / 4)
    assert report["greedy"]["wer"] == pytest.approx(2 / 4)
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert report["seconds"] == 2
    assert report["real_time_factor"] == pytest.approx(0.5)
    wers = {name: row["wer"] for name, row in report["speakers"].items()}
    assert wers == {"ann": 0, "bob": 1}
    assert json.loads(json.dumps(report)) == report


def test_the_table_has_a_row_for_each_part(capsys):
    scores = Scores(EXAMPLES.texts, NO_TIMES, 1.0)
    report = summarize({"greedy": scores, "beam": scores}, EXAMPLES, 8_000)
    report["noise"] = {10: {**report["greedy"], "wer": 0.25}}
    baseline = {"wer": 0.5, "accuracy": 0.75, "name": "the nearest"}
    print_report({**report, "baseline": baseline})
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:16].strip(): line[16:].split() for line in lines}
    assert rows["noise at 10 dB"][0] == "0.2500"
    assert rows["speaker bob"][:3] == ["0.0000", "0.0000", "1.0000"]
    assert "baseline WER 0.5000, exact 0.7500 (the nearest)" in lines
    assert "3 recordings of 2.0 seconds; real-time factor 0.500" in lines


@pytest.mark.parametrize("decibels", [20, 0])
def test_the_noise_has_its_level(decibels):
    some = Examples(["a"], [np.full(80_000, 0.05, "float32")], ["a"], [""])
    (noisy,) = add_noise(some, decibels).waveforms
    power = np.mean((noisy - 0.05) ** 2)
    assert 10 * np.log10(0.05**2 / power) == pytest.approx(decibels, abs=0.1)
    (again,) = add_noise(some, decibels).waveforms
    np.testing.assert_array_equal(again, noisy)
    # Nothing is cut off: a loud recording becomes quieter.
    loud = Examples(["a"], [np.full(80_000, 0.9, "float32")], ["a"], [""])
    (noisy,) = add_noise(loud, 0).waveforms
    assert np.abs(noisy).max() == 1
    assert np.count_nonzero(np.abs(noisy) == 1) == 1


def test_silence_stays_silent_in_relation_to_itself():
    some = Examples(["a"], [np.zeros(100, "float32")], [""], [""])
    assert not add_noise(some, 0).waveforms[0].any()


def test_recordings_are_scored_in_their_order():
    def predictor(files):
        texts = [str(len(file)).encode() for file in files]
        times = [b"0.00 0.50 word"] * len(files)
        return {"transcripts": np.array(texts), "word_times": np.array(times)}

    lengths = range(100, 120)
    some = Examples(
        [str(n) for n in lengths],
        [np.zeros(n, "float32") for n in lengths],
        [""] * 20,
        [""] * 20,
    )
    scores = score(predictor, some, 8_000)
    numbers = np.array(list(map(int, scores.transcripts)))
    assert len(set(np.diff(numbers))) == 1
    assert scores.word_times == [[(0.0, 0.5, "word")]] * 20
    assert scores.seconds > 0


def test_single_words_have_a_confusion_matrix(tmp_path):
    scores = Scores(["one two", "two", "three"], NO_TIMES, 1.0)
    draw(scores, EXAMPLES, 8_000, tmp_path / "sentences")
    assert {path.name for path in (tmp_path / "sentences").iterdir()} == {"worst.png"}
    words = Examples(EXAMPLES.names, EXAMPLES.waveforms, ["a", "b", "a"], [""] * 3)
    draw(scores, words, 8_000, tmp_path / "words")
    names = {path.name for path in (tmp_path / "words").iterdir()}
    assert names == {"worst.png", "confusion_matrix.png"}


def test_noise_and_speakers_are_reported(run, own_data, tmp_path):
    report = evaluate(str(run), noise_sweep=True, figures_folder=tmp_path)
    assert set(report["noise"]) == {20, 10, 0}
    assert report["noise"][0]["wer"] > report["wer"]
    assert report["noise"][20]["wer"] < report["noise"][0]["wer"]
    assert set(report["speakers"]) == set(tones.SPEAKERS)
    words = sum(row["words"] for row in report["speakers"].values())
    assert words == report["words"]
    assert "noise" not in evaluate(str(run), figures_folder=tmp_path)


def test_letters_that_no_training_text_has_are_errors(run, tmp_path):
    table = tones.write(tmp_path, range(500, 504))
    header, *rows = table.read_text().splitlines()
    rows[0] = "\t".join([rows[0].split("\t")[0], "xyz", "ann"])
    table.write_text("\n".join([header, *rows]) + "\n")
    report = evaluate(str(run), str(table), figures_folder=tmp_path)
    assert report["recordings"] == 4
    assert report["accuracy"] <= 0.75
    assert report["substitutions"] + report["deletions"] >= 1


def test_other_tables_may_have_other_columns(run, tmp_path, capsys):
    table = tones.write(tmp_path, range(600, 603))
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    rows[0][:2] = ["file", "said"]
    table.write_text("\n".join("\t".join(row[:2]) for row in rows) + "\n")
    figures = {"figures_folder": tmp_path}
    with pytest.raises(BadInput, match="no column 'audio'"):
        evaluate(str(run), str(table), **figures)
    columns = {"audio_column": "file", "text_column": "said"}
    report = evaluate(str(run), str(table), columns=columns, **figures)
    assert report["recordings"] == 3
    assert report["speakers"] == {}
    assert "has no column 'speaker', which is not needed" in capsys.readouterr().out
