"""One clear sentence that names the file or flag, status 2, nothing half-written."""

import gzip
import io
import shutil
import sys
from pathlib import Path

import pytest

from tests.apps.translation.conftest import write_table
from tests.conftest import run_command


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check(*arguments, says):
        before = set(Path().rglob("*"))
        assert run_command("translation", *arguments) == 2
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


ROWS = "source\ttarget\n" + "gut\tgood\nschlecht\tbad\n" * 9


def test_missing_files(refused):
    for name in ("nowhere.tsv", "nowhere"):
        refused("train", "--data", name, says=[f"no file {name}", "--data"])


def test_missing_columns(refused_table):
    refused_table("says\ttarget\na\tb\n", says=["no column 'source', only says"])
    refused_table("source\tsays\na\tb\n", says=["no column 'target'", "--target-col"])
    refused_table(ROWS, "--source-column", "de", says=["no column 'de'"])
    refused_table("source,target\na,b\n", says=["no column 'source'"])


@pytest.mark.parametrize("content", ["", "source\ttarget\n", "source\ttarget\n\ta\n"])
def test_empty_tables(content, refused_table):
    says = ["no sentence with a translation"] if content else ["only nothing"]
    refused_table(content, says=says)


def test_a_single_pair(refused_table):
    refused_table("source\ttarget\na\tb\n", says=["1 usable example; add more"])


def test_tables_that_are_not_utf8(refused_table):
    latin = ROWS.encode() + "schön\tnice\n".encode("latin-1")
    refused_table(latin, says=["is not UTF-8", "line 20"])
    packed = gzip.compress(latin)
    refused_table(packed, name="mine.tsv.gz", says=["is not UTF-8", "line 20"])
    refused_table(packed[:-20], name="mine.tsv.gz", says=["cannot be read as a table"])


def test_text_files_that_do_not_fit(refused, tmp_path):
    (tmp_path / "a.de").write_text("gut\nja\n")
    (tmp_path / "a.en").write_text("good\n")
    train = ["train", "--data", "a.de"]
    refused(*train, says=["a.de is no table", "--target-data"])
    refused(*train, "--target-data", "b.en", says=["no file b.en"])
    refused(*train, "--target-data", "a.en", says=["a.de has 2 lines and a.en 1"])
    (tmp_path / "a.en").write_bytes(b"good\ncaf\xe9\n")
    refused(*train, "--target-data", "a.en", says=["a.en is not UTF-8", "line 2"])
    (tmp_path / "a.en").write_text("\n\n")
    refused(*train, "--target-data", "a.en", says=["a.de has no sentence with"])
    refused("train", "--data", "b.de", "--target-data", "a.en", says=["no file b.de"])
    for data in (("--data", "b.tsv"), ("numbers",), ("--data", ".")):
        refused("train", *data, "--target-data", "a.en", says=["--target-data a.en"])


def test_folders_that_lack_something(refused, tmp_path):
    (tmp_path / "data").mkdir()
    train = ["train", "--data", "data"]
    refused(*train, says=["data has no train.tsv, train.csv or train.source"])
    (tmp_path / "data/train.de").write_text("gut\nja\n")
    columns = ["--source-column", "de", "--target-column", "en"]
    refused(*train, *columns, says=["train.de has no counterpart", "en"])
    (tmp_path / "data/train.de").unlink()
    for name in ("train.tsv", "val.tsv", "valid.tsv.gz"):
        (tmp_path / "data" / name).write_text(ROWS)
    refused(*train, says=["data has val.tsv and valid.tsv.gz"])


def test_languages_that_no_number_is_written_in(refused):
    train = ["train", "numbers"]
    for column in ("source", "target"):
        refused(*train, f"--{column}-column", "xx", says=[f"--{column}-column xx"])
    refused(*train, "--source-column", "en_INN", says=["did you mean 'en_IN'"])


def test_no_vocabulary(refused, refused_table, tmp_path):
    content = "source\ttarget\n" + "\u200b\t\u200b\n" * 9
    (tmp_path / "mine.tsv").write_text(content)
    refused("train", "--data", "mine.tsv", says=["no vocabulary", "--data"])
    small = ["numbers", "--vocabulary-size", 10]
    refused("train", *small, says=["no vocabulary", "--vocabulary-size"])


def test_settings_that_do_not_fit_the_pairs(refused, tmp_path):
    write_table(tmp_path / "mine.tsv", 60)
    train = ["train", "--data", "mine.tsv", "--vocabulary-size", 60]
    refused(*train, "--max-tokens", 1, says=["--max-tokens"])
    refused(*train, "--beam-size", 90, says=["--beam-size 90"])


def test_misspelt_names(refused):
    refused("train", "number", says=["'number'; did you mean 'numbers'?"])
    refused("train", "multi30k_en_ed", says=["did you mean 'multi30k_en_de'"])
    refused("train", "--data", "tfds:ted_hrlr_translat", says=["did you mean 'ted_"])


def test_a_misspelt_flag(capsys):
    assert run_command("translation", "train", "--beam", "3") == 2
    error = capsys.readouterr().err
    assert "--beam-size" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--batch-size", 0), ("--beam-size", 0), ("--dropout", 1), ("--decoder-units", 0)],
)
def test_numbers_that_cannot_work(refused, flag, value):
    refused("train", flag, value, says=[flag, "must be from"])


def test_a_run_with_other_settings(refused, run):
    refused("train", "numbers", "--run", run, says=[str(run), "epochs", "--run"])


def test_an_unknown_split(refused, run):
    evaluate = ["evaluate", "--model", run, "--split", "validatoin"]
    refused(*evaluate, says=["no split 'validatoin'; did you mean 'validation'"])


def test_empty_texts(refused, run):
    for text in ("", " \n\t"):
        predict = ["predict", "gut", text, "--model", run]
        refused(*predict, says=["text 2 is empty"])


def test_arguments_that_are_not_utf8(refused, run):
    text = b"caf\xe9".decode(errors="surrogateescape")
    refused("predict", text, "--model", run, says=["text 1 is not UTF-8", "--file"])


def test_files_of_texts_that_cannot_be_used(refused, run, tmp_path):
    predict = ["predict", "--model", run, "--file"]
    refused(*predict, "nowhere.txt", says=["--file nowhere.txt", "No such file"])
    (tmp_path / "empty.txt").write_text("\n \n")
    refused(*predict, "empty.txt", says=["--file empty.txt has no text"])
    (tmp_path / "latin.txt").write_bytes(b"good\ncaf\xe9\n")
    refused(*predict, "latin.txt", says=["--file latin.txt, line 2 is not UTF-8"])


def test_nothing_on_standard_input(refused, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    refused("predict", "--model", run, "--file", "-", says=["standard input has no"])


def test_a_model_that_is_none(refused):
    refused("predict", "gut", "--model", "nothing", says=["--model nothing is no"])


def test_a_damaged_run(refused, run, tmp_path):
    for name in ("model.keras", "source.model"):
        copy = shutil.copytree(run, tmp_path / "copy")
        (copy / name).write_bytes(b"junk")
        refused("predict", "gut", "--model", "copy", says=["copy cannot be loaded"])
        shutil.rmtree(copy)


def test_a_bundle_with_a_file_that_is_missing_or_damaged(refused, exported, tmp_path):
    for name in ("search.json", "source.model", "model.tflite"):
        copy = shutil.copytree(exported / "edge", tmp_path / "edge")
        (copy / name).unlink()
        refused("predict", "gut", "--model", "edge", says=["--model edge"])
        (copy / name).write_bytes(b"\xff junk")
        refused("predict", "gut", "--model", "edge", says=["--model edge"])
        shutil.rmtree(copy)


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
