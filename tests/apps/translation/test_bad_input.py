"""Refusals that only translation has; the contract checks the others."""

import gzip

import pytest

from tests.apps.translation.conftest import write_table


@pytest.fixture
def refused_table(refused, tmp_path):
    """Checks that no training starts on a table with this content."""

    def check(content, *flags, says, name="mine.tsv"):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
        refused("train", "--data", name, *flags, says=[name, *says])

    return check


ROWS = "source\ttarget\n" + "gut\tgood\nschlecht\tbad\n" * 9


def test_missing_columns_are_refused(refused_table):
    refused_table("says\ttarget\na\tb\n", says=["no column 'source', only says"])
    refused_table("source\tsays\na\tb\n", says=["no column 'target'", "--target-col"])
    refused_table(ROWS, "--source-column", "de", says=["no column 'de'"])
    refused_table("source,target\na,b\n", says=["no column 'source'"])


@pytest.mark.parametrize("content", ["", "source\ttarget\n", "source\ttarget\n\ta\n"])
def test_empty_tables_are_refused(content, refused_table):
    says = ["no sentence with a translation"] if content else ["only nothing"]
    refused_table(content, says=says)


def test_a_single_pair_is_refused(refused_table):
    refused_table("source\ttarget\na\tb\n", says=["1 usable example; add more"])


def test_tables_that_are_not_utf8_are_refused(refused_table):
    latin = ROWS.encode() + "schön\tnice\n".encode("latin-1")
    refused_table(latin, says=["is not UTF-8", "line 20"])
    packed = gzip.compress(latin)
    refused_table(packed, name="mine.tsv.gz", says=["is not UTF-8", "line 20"])
    refused_table(packed[:-20], name="mine.tsv.gz", says=["cannot be read as a table"])


def test_text_files_that_do_not_fit_are_refused(refused, tmp_path):
    (tmp_path / "a.de").write_text("gut\nja\n")
    (tmp_path / "a.en").write_text("good\n")
    train = ["train", "--data", "a.de"]
    refused(*train, says=["a.de is not a table", "--target-data"])
    refused(*train, "--target-data", "b.en", says=["no file ", "/b.en"])
    refused(*train, "--target-data", "a.en", says=["a.de has 2 lines and ", "/a.en 1"])
    (tmp_path / "a.en").write_bytes(b"good\ncaf\xe9\n")
    refused(*train, "--target-data", "a.en", says=["a.en is not UTF-8", "line 2"])
    (tmp_path / "a.en").write_text("\n\n")
    refused(*train, "--target-data", "a.en", says=["a.de has no sentence with"])
    refused("train", "--data", "b.de", "--target-data", "a.en", says=["no file b.de"])
    says = ["--target-data ", "/a.en belongs to a text file"]
    for data in (("--data", "b.tsv"), ("numbers",), ("--data", ".")):
        refused("train", *data, "--target-data", "a.en", says=says)


def test_folders_that_lack_something_are_refused(refused, tmp_path):
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


def test_languages_without_number_words_are_refused(refused):
    train = ["train", "numbers"]
    for column in ("source", "target"):
        refused(*train, f"--{column}-column", "xx", says=[f"--{column}-column xx"])
    refused(*train, "--source-column", "en_INN", says=["did you mean 'en_IN'"])


def test_texts_without_a_vocabulary_are_refused(refused, tmp_path):
    content = "source\ttarget\n" + "\u200b\t\u200b\n" * 9
    (tmp_path / "mine.tsv").write_text(content)
    refused("train", "--data", "mine.tsv", says=["no vocabulary", "--data"])
    table = write_table(tmp_path / "numbers.tsv", 60)
    small = ["--data", table, "--vocabulary-size", 10]
    refused("train", *small, says=["no vocabulary", "--vocabulary-size"])


def test_settings_that_do_not_fit_the_pairs_are_refused(refused, tmp_path):
    write_table(tmp_path / "mine.tsv", 60)
    train = ["train", "--data", "mine.tsv", "--vocabulary-size", 60]
    refused(*train, "--max-tokens", 1, says=["--max-tokens"])
    refused(*train, "--beam-size", 90, says=["--beam-size 90"])


def test_an_unknown_data_set_is_refused(refused):
    says = ["did you mean 'ted_hrlr_translate'"]
    refused("train", "--data", "tfds:ted_hrlr_translat", says=says)


def test_an_unknown_split_is_refused(refused, run):
    evaluate = ["evaluate", "--model", run, "--split", "validatoin"]
    refused(*evaluate, says=["no split 'validatoin'; did you mean 'validation'"])


def test_target_data_needs_data(refused, run):
    evaluate = ["evaluate", "--model", run, "--target-data", "a.en"]
    refused(*evaluate, says=["--target-data a.en belongs to --data"])
