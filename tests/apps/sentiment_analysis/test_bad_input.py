"""Refusals that only sentiment analysis has; the contract checks the others."""

import gzip

import numpy as np
import pytest

from tests.apps.sentiment_analysis.conftest import write_customers


@pytest.fixture
def refused_table(refused, tmp_path):
    """Checks that no training starts on a table with this content."""

    def check(content, *flags, says, name="mine.tsv"):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
        refused("train", "--data", name, *flags, says=[name, *says])

    return check


ROWS = "text\tlabel\n" + "good\tyes\nbad\tno\n" * 9


def test_a_wrong_ending_is_refused(refused_table):
    for name in ("mine.txt", "mine.xlsx", "mine.json.gz"):
        refused_table(ROWS, name=name, says=["must end in .tsv, .csv"])


def test_missing_columns_are_refused(refused_table):
    refused_table("says\tlabel\na\tb\n", says=["no column 'text', only says, label"])
    refused_table("text\tmeans\na\tb\n", says=["no column 'label'", "--label-column"])
    refused_table(ROWS, "--text-column", "says", says=["no column 'says'"])
    refused_table("text,label\na,b\n", says=["no column 'text'"])


@pytest.mark.parametrize("content", ["", "text\tlabel\n", "text\tlabel\n\t\n \tno\n"])
def test_empty_tables_are_refused(content, refused_table):
    says = ["has no rows with a text and"] if content else ["no column", "only nothing"]
    refused_table(content, says=says)


def test_texts_without_any_label_are_refused(refused_table):
    refused_table("text\tlabel\nso\t\nno\n", says=["has no rows with a text and a"])


def test_tables_that_are_not_utf8_are_refused(refused_table):
    latin = ROWS.encode() + "café\tyes\n".encode("latin-1")
    refused_table(latin, says=["is not UTF-8", "line 20"])
    packed = gzip.compress(latin)
    refused_table(packed, name="mine.tsv.gz", says=["is not UTF-8", "line 20"])
    refused_table(ROWS.encode("utf-16"), says=["is not UTF-8", "line 1"])


def test_damaged_gzip_files_are_refused(refused_table):
    packed = gzip.compress(ROWS.encode() * 50)
    flipped = packed[:12] + b"\xff" * 8 + packed[20:]
    for content in (ROWS.encode(), packed[:-20], flipped, b""):
        refused_table(content, name="mine.csv.gz", says=[])


def test_a_single_class_is_refused(refused_table):
    refused_table("text\tlabel\n" + "a\tyes\n" * 9, says=["only the class yes"])


def test_a_class_with_a_single_text_is_refused(refused_table):
    refused_table(ROWS + "so\tmaybe\n", says=["1 usable example of the class maybe"])


def test_an_unknown_label_in_the_test_split_is_refused(refused, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.tsv").write_text(ROWS)
    (tmp_path / "data/test.tsv").write_text("text\tlabel\nhello\tyess\n")
    refused("train", "--data", "data", says=["data, test", "'yess'", '"hello"'])


def test_two_files_for_one_split_are_refused(refused, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train.tsv", "val.tsv", "valid.tsv.gz"):
        (tmp_path / "data" / name).write_text(ROWS)
    refused("train", "--data", "data", says=["data has val.tsv and valid.tsv.gz"])


def test_folders_without_training_texts_are_refused(refused, tmp_path):
    (tmp_path / "data").mkdir()
    refused("train", "--data", "data", says=["data has no file train.tsv"])
    (tmp_path / "data/test.tsv").write_text(ROWS)
    refused("train", "--data", "data", says=["data has no file train.tsv"])


def test_texts_without_a_vocabulary_are_refused(refused, tmp_path):
    content = "text\tlabel\n" + "\u200b\tyes\n\u200b\tno\n" * 9
    (tmp_path / "mine.tsv").write_text(content)
    refused("train", "--data", "mine.tsv", says=["no vocabulary", "--data"])
    table = write_customers(tmp_path)
    small = ["--data", table, "--vocabulary-size", 10]
    refused("train", *small, says=["no vocabulary", "--vocabulary-size"])


def test_word_vectors_that_cannot_be_used_are_refused(refused, tmp_path):
    train = ["train", "--data", write_customers(tmp_path), "--word-vectors"]
    refused(*train, "nowhere.npz", says=["--word-vectors nowhere.npz", "not exist"])
    words = np.array(["the", "good"])
    np.savez(tmp_path / "long.npz", words=words, vectors=np.eye(2, 140))
    refused(*train, "long.npz", says=["--embedding-size 128", "long.npz", "140"])
    content = (tmp_path / "long.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(content[:-60])
    says = ["--word-vectors truncated.npz is not a file of word vectors"]
    refused(*train, "truncated.npz", says=says)


def test_an_unknown_data_set_is_refused(refused):
    refused("train", "--data", "tfds:imdb_review", says=["did you mean 'imdb_reviews'"])


def test_classes_that_the_model_does_not_know_are_refused(
    refused, run, exported, tmp_path
):
    path = write_customers(tmp_path, range(1))
    path.write_text(path.read_text("utf-8").replace("praise", "thanks"), "utf-8")
    for model in (run, exported / "1", exported / "edge"):
        evaluate = ["evaluate", "--model", model, "--data", path]
        refused(*evaluate, says=["thanks", "complaint, praise, question"])
