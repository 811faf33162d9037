import csv
import gzip
import io
import sys

import pytest
import sentencepiece
import tensorflow as tf

from apps.common import text
from apps.common.errors import BadInput
from apps.common.limits import MAX_INPUTS
from apps.common.predictors import RefusedInput

COLUMNS = {"text_column": "text", "label_column": "label"}


def read(path):
    """Returns the rows without their line numbers."""
    return [values for _, values in text.read_table(path, COLUMNS)]


def write(path, *rows, encoding="utf-8"):
    path.write_text("\n".join(rows) + "\n", encoding)
    return path


def test_quotes_are_ordinary_letters_in_tsv(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tlabel", '"so" bad\tno', 'a 5" hole\tno')
    assert read(path) == [('"so" bad', "no"), ('a 5" hole', "no")]


def test_quoted_csv_fields_may_have_commas_and_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'label,text\nno,"first, ""second""\r\nthird"\nyes,good\n')
    assert read(path) == [('first, "second"\r\nthird', "no"), ("good", "yes")]


@pytest.mark.parametrize("ending", ["tsv", "csv"])
def test_gzipped_tables_are_read(ending, tmp_path):
    separator = {"tsv": "\t", "csv": ","}[ending]
    rows = "".join(f"{a}{separator}{b}\n" for a, b in (("text", "label"), ("ü", "no")))
    path = tmp_path / f"a.{ending}.gz"
    path.write_bytes(gzip.compress(rows.encode()))
    assert read(path) == [("ü", "no")]


def test_tables_may_have_other_endings(tmp_path):
    rows = ["text,label", '"good, not bad",yes']
    path = write(tmp_path / "a.txt", *rows)
    endings = (*text.TABLE_ENDINGS, ".txt")
    assert text.read_table(path, COLUMNS, endings) == [(2, ("good, not bad", "yes"))]
    # A header with tabs has them between the fields of all rows.
    write(path, "text\tlabel", 'so, "so"\tno')
    assert text.read_table(path, COLUMNS, endings) == [(2, ('so, "so"', "no"))]
    path = write(tmp_path / "a.tsv", "text\tlabel", '"so" bad\tno')
    assert text.read_table(path, COLUMNS, endings) == [(2, ('"so" bad', "no"))]
    with pytest.raises(BadInput, match=r"must end in \.tsv, \.csv, .*\.csv\.gz$"):
        read(tmp_path / "a.txt")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(BadInput, match=r"must end in .*\.csv\.gz, \.txt$"):
        text.read_table(tmp_path / "a.json", COLUMNS, endings)


def test_endings_may_be_in_capitals(tmp_path):
    path = tmp_path / "A.TSV.GZ"
    path.write_bytes(gzip.compress(b"text\tlabel\ngood\tpositive\n"))
    assert read(path) == [("good", "positive")]


def test_byte_order_marks_and_windows_line_ends_are_ignored(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufefftext\tlabel\r\nü\tno\r\n".encode())
    assert read(path) == [("ü", "no")]


def test_values_have_the_order_of_the_columns_and_line_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "de,id,en", 'gut,1,"good\nday"', ",2,so", "ja")
    columns = {"source_column": "en", "target_column": "de"}
    assert text.read_table(path, columns) == [
        (3, ("good\nday", "gut")),
        (4, ("so", "")),
        (5, ("", "ja")),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_the_header_tells_what_separates_the_fields_of_csv(separator, name, tmp_path):
    rows = (("id", "text", "label"), ("1", '"good, or ""so""; so"', "yes"))
    content = "".join(f"{separator.join(row)}\r\n" for row in rows)
    content = ("\ufeff" + content).encode()  # As Excel writes it.
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(path) == [('good, or "so"; so', "yes")]


@pytest.mark.parametrize("separator", [", ", ";  ", "\t "])
def test_spaces_may_follow_the_separators_of_csv(separator, tmp_path):
    rows = [("text", "label"), ('"good, or; so"', "yes"), ('so "so"', "no ")]
    path = write(tmp_path / "a.csv", *map(separator.join, rows))
    assert read(path) == [("good, or; so", "yes"), ('so "so"', "no ")]
    # Elsewhere, spaces belong to the text.
    path = write(tmp_path / "a.tsv", "text\tlabel", " good\t yes")
    assert read(path) == [(" good", " yes")]


def test_rows_with_more_fields_than_the_header_are_skipped(tmp_path, capsys):
    rows = ["text,label", "good, but late,no", "good,yes", "bad,no,", "so, so,no"]
    path = write(tmp_path / "a.csv", *rows)
    assert read(path) == [("good", "yes"), ("bad", "no")]
    assert capsys.readouterr().err == (
        f"skipped 2 rows: has more fields than the 2 of the header: line 2 of {path}, "
        f"line 5 of {path}\n"
    )


def test_very_long_fields_are_read(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "word " * 50_000 + ",no")
    assert len(read(path)[0][0]) == 250_000


@pytest.mark.parametrize("line", [2, 40, 3000])
def test_the_line_that_is_not_utf8_is_named(line, tmp_path):
    rows = [b"text\tlabel", *[b"a good day\tyes"] * 4000]
    rows[line - 1] = b"a caf\xe9\tyes"
    content = b"\n".join(rows)
    (tmp_path / "a.tsv").write_bytes(content)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(content))
    for path in tmp_path.iterdir():
        for reader in (read, text.read_lines):
            with pytest.raises(
                BadInput, match=rf"{path} is not UTF-8 .* line {line}\)"
            ):
                reader(path)


def test_files_that_are_not_tables_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no file .*a\.tsv; pass --data a TSV or CSV"):
        read(tmp_path / "a.tsv")
    with pytest.raises(
        BadInput, match=r"a\.txt is not a table; .* end in \.tsv, \.csv, "
    ):
        read(write(tmp_path / "a.txt", "text\tlabel"))


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.tsv", 'name\tage\t"sex"'),
        ("a.csv", '\ufeffname,age,"sex"\r'),
        ("b.csv", "name;age;sex"),
        ("c.csv.gz", "name\tage\tsex"),
        ("d.csv", 'name, age, "sex"'),
    ],
)
def test_the_header_has_the_names_of_the_columns(name, header, tmp_path):
    content = f"{header}\na,b,c\n".encode()
    content = gzip.compress(content) if name.endswith("gz") else content
    (tmp_path / name).write_bytes(content)
    sex = '"sex"' if name.endswith("tsv") else "sex"
    assert text.read_header(tmp_path / name, ["name"]) == ["name", "age", sex]


def test_the_header_of_no_table_is_refused(tmp_path):
    with pytest.raises(
        BadInput, match=r"no file .*nowhere\.csv; pass --data a TSV or CSV"
    ):
        text.read_header(tmp_path / "nowhere.csv", [])
    (tmp_path / "empty.csv").touch()
    assert text.read_header(tmp_path / "empty.csv", ["name"]) == []
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(BadInput, match=r"a.xlsx is not a table; its name must end in"):
        text.read_header(tmp_path / "a.xlsx", [])
    (tmp_path / "latin.csv").write_bytes(b"caf\xe9,b\n")
    with pytest.raises(BadInput, match="is not UTF-8"):
        text.read_header(tmp_path / "latin.csv", [])


def test_the_message_on_a_missing_column_names_the_flags(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tmeans", "a\tb")
    says = (
        r"a\.tsv has no column 'label', only text, means; name the columns with "
        "--text-column and --label-column$"
    )
    with pytest.raises(BadInput, match=says):
        read(path)
    (tmp_path / "b.csv").touch()
    path = write(tmp_path / "c.csv", "says;means", "a, b;c")
    with pytest.raises(BadInput, match="no column 'text', only says, means; "):
        read(path)
    with pytest.raises(BadInput, match="no column 'text', only nothing; "):
        read(tmp_path / "b.csv")


def test_damaged_files_are_refused(tmp_path):
    zipped = gzip.compress(b"text,label\n" + b"good,yes\nbad,no\n" * 500)
    flipped = zipped[:12] + b"\xff" * 8 + zipped[20:]
    path = tmp_path / "a.csv.gz"
    for content in (b"text,label\n", zipped[:-20], flipped):
        path.write_bytes(content)
        with pytest.raises(
            BadInput, match=r"a\.csv\.gz cannot be read as a table: .*; fix"
        ):
            read(path)
        with pytest.raises(BadInput, match=r"a\.csv\.gz cannot be read as text: "):
            text.read_lines(path)


def test_fields_that_are_too_long_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "good day,yes")
    limit = csv.field_size_limit(7)
    try:
        with pytest.raises(BadInput, match=r"a\.csv cannot be read as a table: field"):
            read(path)
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("name", ["a.de", "a.de.GZ"])
def test_only_line_feeds_end_a_line(name, tmp_path):
    content = "\ufeffgut \r\n\nschön \u2028 so\x0b\x85\rja\n\ufeffletzte".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if "GZ" in name else content)
    expected = ["gut ", "", "schön \u2028 so\x0b\x85\rja", "\ufeffletzte"]
    assert text.read_lines(path) == expected


def test_a_final_line_feed_adds_no_line(tmp_path):
    for content, expected in (("", []), ("a\n", ["a"]), ("a\n\n", ["a", ""])):
        (tmp_path / "a.txt").write_text(content)
        assert text.read_lines(tmp_path / "a.txt") == expected


def test_missing_files_of_lines_are_refused(tmp_path):
    for path in (tmp_path / "a.de", tmp_path):
        with pytest.raises(BadInput, match=f"no file {path}; add it"):
            text.read_lines(path)


def found(root, *arguments, **options):
    """Returns the splits and the names of their files."""
    files = text.split_files(root, *arguments, **options)
    return [(split, path.name) for split, path in files.items()]


def test_split_names_vary_but_their_order_does_not(tmp_path):
    for name in ("Test.TSV", "training.x.csv.gz", "valid.csv", "test.txt", "train"):
        (tmp_path / name).touch()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/Dev.csv").touch()
    assert found(tmp_path / "dev") == [("validation", "Dev.csv")]
    assert found(tmp_path) == [
        ("train", "training.x.csv.gz"),
        ("validation", "valid.csv"),
        ("test", "Test.TSV"),
    ]
    assert found(tmp_path, (".txt",)) == [("test", "test.txt")]


def test_other_files_keep_their_own_names(tmp_path):
    for name in ("train.tsv", "Notes.tsv", "Test_B.tsv", "test_a.csv", "latest.tsv"):
        (tmp_path / name).touch()
    (tmp_path / "._train.tsv").touch()  # macOS writes such files.
    others = [
        ("latest", "latest.tsv"),
        ("notes", "Notes.tsv"),
        ("test_a", "test_a.csv"),
        ("test_b", "Test_B.tsv"),
    ]
    train = ("train", "train.tsv")
    assert sorted(found(tmp_path)) == sorted([train, ("test", "test_a.csv"), *others])
    (tmp_path / "test.tsv").touch()
    assert sorted(found(tmp_path)) == sorted([train, ("test", "test.tsv"), *others])


def test_other_files_may_be_left_out(tmp_path):
    for name in ("train.tsv", "test_a.csv", "notes.csv", "notes.tsv"):
        (tmp_path / name).touch()
    assert found(tmp_path, others=False) == [("train", "train.tsv")]


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("val.tsv", "valid.tsv.gz", "validation"),
        ("test_a.csv", "test_a.tsv", "test_a"),
    ],
)
def test_two_files_of_one_split_are_refused(first, second, split, tmp_path):
    for name in (first, second, "train.tsv"):
        (tmp_path / name).touch()
    with pytest.raises(BadInput, match=f"has {first} and {second}, both for {split};"):
        text.split_files(tmp_path)


def test_files_of_no_split_are_named(tmp_path, capsys):
    for name in ("train.tsv", "test.xlsx", ".hidden", "notes.md"):
        (tmp_path / name).touch()
    text.print_unused(tmp_path, text.split_files(tmp_path).values())
    assert capsys.readouterr().err == (
        f"skipped 2 files: belongs to no split of {tmp_path}: notes.md, test.xlsx\n"
    )


def test_each_line_of_a_file_is_a_text(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffgood\r\n\n  \nschön \u2028 so\nlast".encode())
    assert text.read_texts(path) == ["good", "", "  ", "schön \u2028 so", "last"]


def test_standard_input_is_read(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("one\ntwö\n".encode()), "ascii")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert text.read_texts("-") == ["one", "twö"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "texts.txt has no text"),
        (b"\n \n\t\n", "texts.txt has no text"),
        (b"good\n\ncaf\xe9\n", "texts.txt, line 3 is not UTF-8"),
    ],
)
def test_files_without_usable_texts_are_refused(content, says, tmp_path):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(BadInput, match=says):
        text.read_texts(tmp_path / "texts.txt")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        text.read_texts(tmp_path)


def test_texts_are_checked():
    text.check_texts(["good", "gut 😀"])
    with pytest.raises(BadInput, match="text 2 is empty"):
        text.check_texts(["good", " "])
    with pytest.raises(BadInput, match=r"text 1 is not UTF-8; .* --file"):
        text.check_texts([b"caf\xe9".decode(errors="surrogateescape")])


def test_texts_of_unknown_words_are_named(capsys):
    known = ["▁good", "▁", text.UNKNOWN_TOKEN, "▁day"]
    unknown = ["▁", text.UNKNOWN_TOKEN, "▁", text.UNKNOWN_TOKEN, "!"]
    text.print_unknown(1, "a good day", ["▁good", "▁day"], max_fraction=0)
    text.print_unknown(2, "good 你 day", known)
    assert capsys.readouterr() == ("", "")
    text.print_unknown(3, "good 你 day", known, max_fraction=0)
    text.print_unknown(4, "привет мир! " * 9, unknown)
    says = "of 3 tokens are unknown to the model; train it on texts like this one"
    assert capsys.readouterr().err.splitlines() == [
        f'text 3, "good 你 day": 1 {says}',
        f'text 4, "{"привет мир! " * 3}при…": 2 {says}',
    ]


WORDS = " ".join(f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou")


def train(texts, vocabulary_size, replacements=None, **options):
    replacements = replacements or {"\u00ad": ""}
    model = text.train_sentencepiece(texts, vocabulary_size, replacements, **options)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def test_subword_tokens_are_learned():
    processor = train([WORDS] * 10, 200)
    assert 20 < len(processor) <= 200
    assert (processor.pad_id(), processor.unk_id()) == (text.PADDING, text.UNKNOWN)
    assert processor.bos_id() == processor.eos_id() == -1
    assert processor.decode(processor.encode("ba du")) == "ba du"


def test_characters_are_replaced():
    processor = train([WORDS] * 10, 200, {"\u00ad": "", "ß": "ba"})
    assert processor.decode(processor.encode("ß d\u00adu")) == "ba du"


def test_start_and_end_may_have_tokens():
    processor = train([WORDS] * 10, 200, bos_id=2, eos_id=3)
    assert (processor.bos_id(), processor.eos_id()) == (2, 3)


def test_long_texts_are_used_for_training():
    assert len(train([WORDS * 100] * 2, 200)) > 20


@pytest.mark.parametrize(("texts", "size"), [(["", " "], 100), ([WORDS], 10)])
def test_texts_without_letters_are_refused(texts, size):
    says = f"no vocabulary can be learned .* --vocabulary-size {size} is too small"
    with pytest.raises(BadInput, match=says):
        train(texts, size)


def check_request(texts, allow_empty=True, **limits):
    checked, errors = text.check_request(
        tf.constant(texts, tf.string), allow_empty=allow_empty, **limits
    )
    # A text with an error is hidden.
    for each, same, error in zip(
        texts, checked.numpy().tolist(), errors.numpy(), strict=True
    ):
        assert same == (b"" if error else each)
    return [error.decode() for error in errors.numpy()]


def test_texts_of_a_request_are_limited_in_bytes():
    errors = check_request([b"so", "süß".encode(), b"", b"\xff" * 6], max_bytes=4)
    says = "the text has more than 4 bytes; shorten it"
    assert errors == ["", says, "", says]


def test_texts_of_a_request_are_utf8():
    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x110000)]]
    good = ["".join(characters[i::9]).encode() for i in range(9)]
    assert not any(check_request(good, max_bytes=10**7))
    bad = [b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\x80", b"a\xe2\x82", b"\x80"]
    assert set(check_request(bad, max_bytes=9)) == {"the text is not UTF-8"}


def test_words_of_a_request_are_limited_in_letters():
    texts = [
        "four",
        "fours",
        "🙂🙂🙂🙂",
        "🙂🙂🙂🙂🙂",
        "a\tb\nc\vd\fe\rf gggg\u00a0hhhh\u3000iiii",
        "\n12345\n",
    ]
    texts = [each.encode() for each in texts]
    says = "a word has more than 4 letters; shorten it"
    errors = check_request(texts, max_bytes=99, max_word_letters=4)
    assert errors == ["", says, "", says, "", says]
    assert not any(check_request(texts, max_bytes=99))


def test_texts_of_a_request_may_be_empty_or_not():
    blank = ["", " \t\n\x00\x07\x85", "\u00a0\u2003\u2028\u3000"]
    texts = [each.encode() for each in [*blank, " x", "\u200b"]]
    errors = check_request(texts, max_bytes=99, allow_empty=False)
    assert errors == ["the text is empty; write at least one word"] * 3 + ["", ""]
    assert not any(check_request(texts, max_bytes=99))


def test_requests_of_another_shape_are_refused():
    assert check_request([], max_bytes=9) == []
    for texts in ("so", [["so"]], ["so"] * (MAX_INPUTS + 1)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="text must have the"):
            text.check_request(tf.constant(texts), max_bytes=9)


def test_rows_are_joined():
    rows = tf.ragged.constant([["a", "b"], [], ["c"]])
    assert text.join_rows(rows).numpy().tolist() == [b"a b", b"", b"c"]
    rows = tf.ragged.constant([[0.25, 1], [], [-1 / 3]])
    expected = [b"0.250000\n1.000000", b"", b"-0.333333"]
    assert text.join_rows(rows, "\n").numpy().tolist() == expected
    assert text.join_rows(rows[:0]).shape == (0,)


def test_a_refused_text_is_quoted():
    refused = pytest.raises(BadInput, match='the model refuses "no": it is too short')
    with refused, text.quote_refused(["so", "no"]):
        raise RefusedInput(2, "it is too short")
