"""Reads and checks texts, trains SentencePiece vocabularies, and joins their tokens."""

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import sentencepiece
import tensorflow as tf

from apps.common import datasets
from apps.common.errors import BadInput, flag
from apps.common.limits import MAX_INPUTS, check_shape, first_error
from apps.common.predictors import RefusedInput

TABLE_ENDINGS = (".tsv", ".csv", ".tsv.gz", ".csv.gz")
# Token ids of padding and of unknown tokens.
PADDING = 0
UNKNOWN = 1
# How vocabularies spell unknown tokens.
UNKNOWN_TOKEN = "<unk>"

csv.field_size_limit(2**31 - 1)  # Texts may be long.


def read_table(
    path: Path, columns: Mapping[str, str], endings: Sequence[str] = TABLE_ENDINGS
) -> list[tuple[int, tuple[str, ...]]]:
    """Reads some columns of a table.

    Rows with more fields than the header are skipped, and a message names them.

    Args:
        path: A `.tsv` or `.csv` file with a header row, which may be gzipped. Fields of
            a `.csv` file may be quoted, and commas, semicolons or tabs separate them,
            with or without spaces; in a `.tsv` file, quotes are ordinary letters.
        columns: The names of the wanted columns, by the setting that holds each name.
        endings: How the names of tables end; those that do not end like a `.tsv` file
            are read like `.csv` files. Defaults to `TABLE_ENDINGS`.

    Returns:
        A pair for each row: its line number and its values, in the order of `columns`.
        A missing value is an empty string. If a row spans several lines, the number is
        that of its last line.

    Raises:
        BadInput: The file is missing, is not such a table, is not UTF-8 or lacks a
            column.
    """
    rows, skipped = [], []
    with _open_table(path, columns.values(), endings) as table:
        known = table.fieldnames or []
        for column in columns.values():
            if column not in known:
                raise BadInput(
                    f"{path} has no column '{column}', only "
                    f"{', '.join(known) or 'nothing'}; name the columns with "
                    f"{' and '.join(map(flag, columns))}"
                )
        for row in table:
            if any(row.pop(None, ())):  # type: ignore[call-overload]
                reason = f"has more fields than the {len(known)} of the header"
                skipped.append((f"line {table.line_num} of {path}", reason))
            else:
                values = tuple(row[column] or "" for column in columns.values())
                rows.append((table.line_num, values))
    datasets.print_skipped(skipped, "row")
    return rows


def read_header(path: Path, columns: Iterable[str]) -> list[str]:
    """Returns the names of the columns of a table.

    Args:
        path: A table, as `read_table` takes it.
        columns: Names that should be among them; they tell commas from semicolons.

    Raises:
        BadInput: The file is missing, is not such a table or is not UTF-8.
    """
    with _open_table(path, columns, TABLE_ENDINGS) as table:
        return list(table.fieldnames or [])


@contextlib.contextmanager
def _open_table(path, columns, endings):
    """Opens a table, whose arguments are those of `read_table`, as a reader of rows."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}; pass --data a TSV or CSV file")
    if not path.name.lower().endswith(tuple(endings)):
        raise BadInput(
            f"{path} is not a table; its name must end in {', '.join(endings)}"
        )
    with (
        _read_errors(path, "a table"),
        _open(path, "rt", encoding="utf-8-sig", newline="") as file,
    ):
        header = file.readline()
        dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        if not path.name.lower().endswith((".tsv", ".tsv.gz")):
            delimiter = _delimiter(header, columns)
            dialect = {"delimiter": delimiter, "skipinitialspace": True}
        yield csv.DictReader(itertools.chain([header], file), **dialect)


def _delimiter(header: str, columns: Iterable[str]) -> str:
    """Returns the character that separates the fields of a header line.

    Args:
        header: The line.
        columns: The names that should be in it.
    """

    def fields_found(delimiter):
        reader = csv.reader([header], delimiter=delimiter, skipinitialspace=True)
        fields = next(reader, [])
        return len(set(columns) & set(fields)), len(fields)

    return max(",;\t", key=fields_found)


def read_lines(path: Path) -> list[str]:
    r"""Reads the lines of a text file.

    Args:
        path: A UTF-8 file, which may be gzipped.

    Returns:
        The lines without their line ends. Only `\n` and `\r\n` end a line.

    Raises:
        BadInput: The file is missing, cannot be read or is not UTF-8.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}; add it, or name another one")
    with (
        _read_errors(path, "text"),
        _open(path, "rt", encoding="utf-8-sig", newline="\n") as file,
    ):
        return [line.removesuffix("\n").removesuffix("\r") for line in file]


def _open(path: Path, mode: str, **options: Any) -> IO:
    """Opens a file, which may be gzipped."""
    is_gzipped = path.suffix.lower() == ".gz"
    opener: Any = gzip.open if is_gzipped else open
    return opener(path, mode, **options)


@contextlib.contextmanager
def _read_errors(path: Path, kind: str) -> Iterator[None]:
    """Turns errors while reading a file of this kind into `BadInput`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 (in its line {_undecodable_line(path)}); save it as "
            "UTF-8"
        ) from error
    except (csv.Error, EOFError, OSError, zlib.error) as error:
        raise BadInput(
            f"{path} cannot be read as {kind}: {error}; fix the file"
        ) from error


def _undecodable_line(path: Path) -> int | None:
    """Returns the number of the first line that is not UTF-8."""
    with _open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def split_files(
    root: Path, endings: Iterable[str] = TABLE_ENDINGS, others: bool = True
) -> dict[str, Path]:
    """Returns the files of a folder by split.

    The name up to the first dot decides which split a file belongs to; upper and lower
    case are the same.

    Args:
        root: The folder.
        endings: Endings of the wanted files.
        others: Whether to return files of no standard split as well, under their own
            names. The first one whose name begins with `test` is then also the test
            split, if there is no other. Defaults to True.

    Returns:
        `train`, `validation` and `test`, in this order, then the others by name.

    Raises:
        BadInput: There are two files for one split.
    """
    splits = {
        name: split for split, names in datasets.SPLIT_NAMES.items() for name in names
    }
    endings = tuple(ending.lower() for ending in endings)
    files: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        name = path.name.split(".")[0].lower()
        split = splits.get(name, name if others else None)
        if not split or not path.name.lower().endswith(endings):
            continue
        if split in files:
            raise BadInput(
                f"{root} has {files[split].name} and {path.name}, both for {split}; "
                "leave only one of them there"
            )
        files[split] = path
    tests = sorted(name for name in files if name.startswith("test"))
    if tests:
        files.setdefault("test", files[tests[0]])
    order = [*datasets.SPLIT_NAMES, *files]
    return {split: files[split] for split in order if split in files}


def print_unused(root: Path, used: Iterable[Path]) -> None:
    """Prints which files of a folder belong to no split, to standard error.

    Args:
        root: The folder.
        used: The files that do, from `split_files`. Hidden files are not reported.
    """
    unused = sorted({*root.iterdir()} - {*used})
    datasets.print_skipped(
        (path.name, f"belongs to no split of {root}")
        for path in unused
        if not path.name.startswith(".")
    )


def read_texts(file: Path | str) -> list[str]:
    """Returns the lines of a file, blank ones included.

    Args:
        file: A UTF-8 file, or `-` for standard input.

    Raises:
        BadInput: The file is missing, not UTF-8, or has only blank lines.
    """
    name = "standard input" if str(file) == "-" else f"--file {file}"
    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read()
        else:
            content = Path(file).read_bytes()
    except OSError as error:
        raise BadInput(
            f"{name} cannot be read: {error.strerror}; pass a file with one text per "
            "line"
        ) from error
    texts = []
    content = content.removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{name}, line {number} is not UTF-8; save the file as UTF-8"
            ) from error
    if not any(text.strip() for text in texts):
        raise BadInput(f"{name} has no text; write one text per line")
    return texts


def check_texts(texts: Iterable[str]) -> None:
    """Checks texts from the command line.

    Raises:
        BadInput: A text is empty or not UTF-8.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise BadInput(f"text {number} is empty; write at least one word")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                f"text {number} is not UTF-8; use a UTF-8 terminal, or pass the texts "
                "with --file"
            ) from error


@contextlib.contextmanager
def quote_refused(texts: Sequence[str]) -> Iterator[None]:
    """Quotes the text that a model refuses, since users do not know its number.

    Args:
        texts: The texts that the model is called with.

    Raises:
        BadInput: The model refuses a text.
    """
    try:
        yield
    except RefusedInput as error:
        text = shorten(texts[error.number - 1])
        raise BadInput(f'the model refuses "{text}": {error.sentence}') from error


def check_request(
    text: tf.Tensor,
    max_bytes: int,
    max_word_letters: int | None = None,
    allow_empty: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Checks the texts of a request, inside the graph of a signature.

    Args:
        text: The input `text`, strings.
        max_bytes: The most bytes of a text.
        max_word_letters: The most characters without a space; None for any number.
        allow_empty: Whether a text may have no more than spaces.

    Returns:
        The texts, `(n,)`, empty where there is an error; and the errors, strings
        `(n,)`, empty where all is well.

    Raises:
        tf.errors.InvalidArgumentError: The input has another shape, or there are more
            than `MAX_INPUTS` texts; when the graph runs.
    """
    text = check_shape(text, "text", [None], [MAX_INPUTS])
    is_long = tf.strings.length(text) > max_bytes
    short = tf.where(is_long, "", text)  # The other checks would take long.
    checks = [
        (is_long, f"the text has more than {max_bytes} bytes; shorten it"),
        (
            tf.strings.unicode_transcode(short, "UTF-8", "UTF-8") != short,
            "the text is not UTF-8",
        ),
    ]
    if max_word_letters:
        long_word = f"(?s).*[^\\s\\v\\pZ]{{{max_word_letters + 1}}}.*"
        checks.append(
            (
                tf.strings.regex_full_match(short, long_word),
                f"a word has more than {max_word_letters} letters; shorten it",
            )
        )
    if not allow_empty:
        is_empty = tf.strings.regex_full_match(short, r"[\pZ\p{Cc}]*")
        checks.append((is_empty, "the text is empty; write at least one word"))
    errors = first_error(*checks)
    return tf.where(errors == "", text, ""), errors


def join_rows(values: tf.RaggedTensor, separator: str = " ") -> tf.Tensor:
    """Returns the values of each row in one string.

    Args:
        values: A ragged tensor `(rows, values)`: strings, or numbers, which are written
            with 6 decimals.
        separator: Stands between two values.

    Returns:
        Strings `(rows,)`; empty for rows without values.
    """
    strings = values.values
    if strings.dtype.is_floating:
        strings = tf.strings.as_string(strings, precision=6)
    return tf.strings.unsorted_segment_join(
        strings, values.value_rowids(), values.nrows(), separator=separator
    )


def print_unknown(
    number: int, text: str, tokens: Iterable[str], max_fraction: float = 0.5
) -> None:
    """Says on standard error that the vocabulary lacks much of a text.

    Args:
        number: The number of the text.
        text: The text.
        tokens: Its subword tokens. `▁` stands for a space.
        max_fraction: The fraction of unknown tokens up to which nothing is said.
            Defaults to 0.5.
    """
    tokens = [token for token in tokens if token != "▁"]
    unknown = tokens.count(UNKNOWN_TOKEN)
    if unknown > max_fraction * len(tokens):
        print(
            f'text {number}, "{shorten(text)}": {unknown} of {len(tokens)} tokens are '
            "unknown to the model; train it on texts like this one",
            file=sys.stderr,
        )


def shorten(text: str, max_letters: int = 40) -> str:
    """Returns the beginning of a text, for messages."""
    return text if len(text) <= max_letters else f"{text[: max_letters - 1]}…"


def train_sentencepiece(
    texts: Iterable[str],
    vocabulary_size: int,
    replacements: Mapping[str, str],
    **options: Any,
) -> bytes:
    """Trains a SentencePiece model.

    Args:
        texts: The training texts.
        vocabulary_size: Maximum number of tokens; few texts yield fewer.
        replacements: Replaces each key by its value before a text is split into tokens.
            The model file contains these rules.
        **options: Options of SentencePiece. There are no tokens for the start and the
            end of a text unless `bos_id` and `eos_id` are given.

    Returns:
        The content of the model file.

    Raises:
        BadInput: The texts have no letters to learn from.
    """
    model = io.BytesIO()
    options = {
        "hard_vocab_limit": False,
        "max_sentence_length": 2**30,
        "pad_id": PADDING,
        "unk_id": UNKNOWN,
        "bos_id": -1,
        "eos_id": -1,
        "num_threads": 2,
        "minloglevel": 2,
    } | options
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as table:
        for rule in replacements.items():
            codes = (" ".join(f"{ord(c):X}" for c in text) for text in rule)
            table.write("\t".join(codes) + "\n")
        table.flush()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocabulary_size,
                normalization_rule_tsv=table.name,
                **options,
            )
        except RuntimeError as error:
            raise BadInput(
                "no vocabulary can be learned from the training texts: they have too "
                f"few words, or --vocabulary-size {vocabulary_size} is too small for "
                "their letters; add texts to --data, or raise it"
            ) from error
    return model.getvalue()
