"""One clear sentence that names the file or flag, status 2, nothing half-written."""

import gzip
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.apps.sentiment_analysis.conftest import write_table
from tests.conftest import run_command


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check(*arguments, says):
        before = set(Path().rglob("*"))
        assert run_command("sentiment_analysis", *arguments) == 2
        error = capsys.readouterr().err
        last = error.strip().splitlines()[-1]
        assert last.startswith("error: ")
        for part in says:
            assert part in last
        assert "Traceback" not in error
        assert set(Path().rglob("*")) == before

    return check


@pytest.fixture
def refused_table(refused, tmp_path):
    """Writes a table and expects that no training begins on it."""

    def check(content, *flags, says, name="mine.tsv"):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
        refused("train", "--data", name, *flags, says=[name, *says])

    return check


ROWS = "text\tlabel\n" + "good\tyes\nbad\tno\n" * 9


def test_missing_files(refused):
    for name in ("nowhere.tsv", "nowhere"):
        refused("train", "--data", name, says=[f"no file {name}", "--data"])


def test_wrong_ending(refused_table):
    for name in ("mine.txt", "mine.xlsx", "mine.json.gz"):
        refused_table(ROWS, name=name, says=["must end in .tsv, .csv"])


def test_missing_columns(refused_table):
    refused_table("says\tlabel\na\tb\n", says=["no column 'text', only says, label"])
    refused_table("text\tmeans\na\tb\n", says=["no column 'label'", "--label-column"])
    refused_table(ROWS, "--text-column", "says", says=["no column 'says'"])
    refused_table("text,label\na,b\n", says=["no column 'text'"])


@pytest.mark.parametrize("content", ["", "text\tlabel\n", "text\tlabel\n\t\n \tno\n"])
def test_empty_tables(content, refused_table):
    says = ["has no rows with a text"] if content else ["no column", "only nothing"]
    refused_table(content, says=says)


def test_a_text_without_label(refused_table):
    refused_table(ROWS + "so\t\n", says=["line 20", "has no label"])
    refused_table(ROWS + "so\n", says=["line 20", "has no label"])


def test_tables_that_are_not_utf8(refused_table):
    latin = ROWS.encode() + "café\tyes\n".encode("latin-1")
    refused_table(latin, says=["is not UTF-8", "line 20"])
    packed = gzip.compress(latin)
    refused_table(packed, name="mine.tsv.gz", says=["is not UTF-8", "line 20"])
    refused_table(ROWS.encode("utf-16"), says=["is not UTF-8", "line 1"])


def test_damaged_packed_tables(refused_table):
    packed = gzip.compress(ROWS.encode() * 50)
    flipped = packed[:12] + b"\xff" * 8 + packed[20:]
    for content in (ROWS.encode(), packed[:-20], flipped, b""):
        refused_table(content, name="mine.csv.gz", says=[])


def test_a_single_class(refused_table):
    refused_table("text\tlabel\n" + "a\tyes\n" * 9, says=["only the class yes"])


def test_a_class_with_a_single_text(refused_table):
    refused_table(ROWS + "so\tmaybe\n", says=["1 usable example of the class maybe"])


def test_an_unknown_label_in_the_test_split(refused, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.tsv").write_text(ROWS)
    (tmp_path / "data/test.tsv").write_text("text\tlabel\nhello\tyess\n")
    refused("train", "--data", "data", says=["data, test", "'yess'", '"hello"'])


def test_two_files_for_one_split(refused, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train.tsv", "val.tsv", "valid.tsv.gz"):
        (tmp_path / "data" / name).write_text(ROWS)
    refused("train", "--data", "data", says=["data has val.tsv and valid.tsv.gz"])


def test_folders_without_training_texts(refused, tmp_path):
    (tmp_path / "data").mkdir()
    refused("train", "--data", "data", says=["data has no file train.tsv"])
    (tmp_path / "data/test.tsv").write_text(ROWS)
    refused("train", "--data", "data", says=["data has no file train.tsv"])


def test_no_vocabulary(refused, tmp_path):
    content = "text\tlabel\n" + "\u200b\tyes\n\u200b\tno\n" * 9
    (tmp_path / "mine.tsv").write_text(content)
    refused("train", "--data", "mine.tsv", says=["no vocabulary", "--data"])
    small = ["sentences", "--vocabulary-size", 10]
    refused("train", *small, says=["no vocabulary", "--vocabulary-size"])


def test_word_vectors_that_cannot_be_used(refused, tmp_path):
    train = ["train", "sentences", "--run", "never", "--word-vectors"]
    refused(*train, "nowhere.npz", says=["--word-vectors nowhere.npz", "not exist"])
    words = np.array(["the", "good"])
    np.savez(tmp_path / "long.npz", words=words, vectors=np.eye(2, 40))
    refused(*train, "long.npz", says=["--embedding-size 32", "long.npz", "40"])
    content = (tmp_path / "long.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-60])
    refused(*train, "cut.npz", says=["--word-vectors cut.npz", "no word vectors"])


def test_misspelt_names(refused):
    refused("train", "tweet", says=["'tweet'; did you mean 'tweets'?"])
    refused("train", "--data", "tfds:imdb_review", says=["did you mean 'imdb_reviews'"])


def test_a_misspelt_flag(capsys):
    assert run_command("sentiment_analysis", "train", "--unit", "3") == 2
    error = capsys.readouterr().err
    assert "--units" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--batch-size", 0), ("--epochs", 0), ("--token-dropout", 1), ("--units", 0)],
)
def test_numbers_that_cannot_work(refused, flag, value):
    refused("train", flag, value, says=[flag, "must be from"])


def test_a_run_with_other_settings(refused, run):
    refused("train", "sentences", "--run", run, says=[str(run), "epochs", "--run"])


def test_empty_texts(refused, run):
    for text in ("", " \n\t"):
        predict = ["predict", "good", text, "--model", run]
        refused(*predict, says=["text 2 is empty"])


def test_arguments_that_are_not_utf8(refused, run):
    text = b"caf\xe9".decode(errors="surrogateescape")
    refused("predict", text, "--model", run, says=["text 1 is not UTF-8", "--file"])


def test_files_of_texts_that_cannot_be_used(refused, run, tmp_path):
    predict = ["predict", "--model", run, "--file"]
    refused(*predict, "nowhere.txt", says=["--file nowhere.txt", "No such file"])
    refused(*predict, ".", says=["--file .", "Is a directory"])
    (tmp_path / "empty.txt").write_text("\n \n")
    refused(*predict, "empty.txt", says=["--file empty.txt has no text"])
    (tmp_path / "latin.txt").write_bytes(b"good\ncaf\xe9\n")
    refused(*predict, "latin.txt", says=["--file latin.txt, line 2 is not UTF-8"])


def test_nothing_on_standard_input(refused, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    refused("predict", "--model", run, "--file", "-", says=["standard input has no"])


def test_a_model_that_is_none(refused):
    refused("predict", "good", "--model", "nothing", says=["--model nothing is no"])


def test_a_damaged_run(refused, run, tmp_path):
    for name in ("model.keras", "tokenizer.model"):
        copy = shutil.copytree(run, tmp_path / "copy")
        (copy / name).write_bytes(b"junk")
        refused("predict", "good", "--model", "copy", says=["copy cannot be loaded"])
        shutil.rmtree(copy)


def test_a_bundle_with_a_file_that_is_missing_or_damaged(refused, exported, tmp_path):
    for name in ("cleaning.json", "tokenizer.model", "labels.txt"):
        copy = shutil.copytree(exported / "edge", tmp_path / "edge")
        (copy / name).unlink()
        refused("predict", "good", "--model", "edge", says=["--model edge"])
        (copy / name).write_bytes(b"\xff junk")
        refused("predict", "good", "--model", "edge", says=["--model edge"])
        shutil.rmtree(copy)


def test_another_class_than_the_model_knows(refused, run, exported, tmp_path):
    write_table(tmp_path / "mine.tsv", number=1)
    for model in (run, exported / "1", exported / "edge"):
        evaluate = ["evaluate", "--model", model, "--data", "mine.tsv"]
        refused(*evaluate, says=["complaint", "negative, neutral, positive"])


def test_a_model_that_does_not_tell_its_data(refused, exported, tmp_path):
    shutil.copytree(exported / "edge", tmp_path / "moved/edge")
    for command in ("evaluate", "predict"):
        arguments = [command, "--model", "moved/edge"]
        refused(*arguments, says=["moved/edge does not tell", "--data"])


def test_exporting_what_was_not_trained(refused, run, tmp_path):
    refused("export", "--run", "nowhere", says=["--run nowhere", "train first"])
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "finished.json").unlink()
    refused("export", "--run", "copy", says=["not finished", "train command"])
