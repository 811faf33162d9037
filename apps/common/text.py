"""Texts as people keep them, in tables and lines, and the pieces they consist of."""

import codecs
import contextlib
import csv
import gzip
import io
import sys
import tempfile
import zlib
from pathlib import Path

import sentencepiece

from apps.common import cli, datasets
from apps.common.errors import BadInput

TABLE_ENDINGS = (".tsv", ".csv", ".tsv.gz", ".csv.gz")
# The numbers of pieces that stand for nothing and for what is in no vocabulary.
PADDING = 0
UNKNOWN = 1

csv.field_size_limit(2**31 - 1)  # Texts may be long.


def read_table(path: Path, columns):
    """Reads some columns of a table.

    Args:
        path: A `.tsv` file, in which quotes are letters like others, or a `.csv` file,
            whose fields may be quoted; both begin with a header, and may be gzipped.
        columns: The wanted columns, by the setting that names each.

    Returns:
        Pairs of a row's line number and its values, strings in the order of `columns`;
        what a row lacks is empty. A row of several lines has the number of its last.

    Raises:
        BadInput: The file is missing, is no such table, is not UTF-8 or lacks a column.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}; pass --data a TSV or CSV file")
    if not path.name.lower().endswith(TABLE_ENDINGS):
        raise BadInput(
            f"{path} is no table; its name must end in {', '.join(TABLE_ENDINGS)}"
        )
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    if path.name.lower().endswith((".csv", ".csv.gz")):
        style = {}
    with (
        _explained(path, "a table"),
        open_text(path, "rt", encoding="utf-8-sig", newline="") as file,
    ):
        table = csv.DictReader(file, **style)
        known = table.fieldnames or []
        for column in columns.values():
            if column not in known:
                raise BadInput(
                    f"{path} has no column '{column}', only "
                    f"{', '.join(known) or 'nothing'}; name the columns with "
                    f"{' and '.join(map(cli.flag, columns))}"
                )
        return [
            (table.line_num, tuple(row[column] or "" for column in columns.values()))
            for row in table
        ]


def read_lines(path: Path):
    r"""Reads the lines of a text file.

    Args:
        path: A UTF-8 file, which may be gzipped.

    Returns:
        The lines without their ends, which are `\n` or `\r\n` and nothing else.

    Raises:
        BadInput: The file is missing, cannot be read or is not UTF-8.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}; add it, or name another one")
    with (
        _explained(path, "text"),
        open_text(path, "rt", encoding="utf-8-sig", newline="\n") as file,
    ):
        return [line.removesuffix("\n").removesuffix("\r") for line in file]


def open_text(path, *mode, **encoding):
    """Opens a file that may be gzipped."""
    is_gzipped = path.suffix.lower() == ".gz"
    return (gzip.open if is_gzipped else open)(path, *mode, **encoding)


@contextlib.contextmanager
def _explained(path, kind):
    """Turns what can go wrong in reading a file of that kind into `BadInput`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 (in its line {_undecodable_line(path)}); save it as "
            "UTF-8"
        ) from error
    except (csv.Error, EOFError, OSError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read as {kind}: {error}; mend it") from error


def _undecodable_line(path):
    """Returns the number of the first line that is not UTF-8."""
    with open_text(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number


def split_files(root: Path, endings=TABLE_ENDINGS, others=True):
    """Finds the file of each split in a folder.

    A file is known by its name up to the first dot, in small letters.

    Args:
        root: The folder.
        endings: How the names of the files may end.
        others: Whether files are wanted that are for no split, under their own names.
            The first of them that begins with `test` is then the test split too, if
            there is no other. Defaults to True.

    Returns:
        The files by `train`, `validation` and `test`, in this order, then by their own
        names.

    Raises:
        BadInput: There are two files for one split.
    """
    splits = {
        name: split for split, names in datasets.SPLIT_NAMES.items() for name in names
    }
    endings = tuple(ending.lower() for ending in endings)
    files = {}
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


def print_skipped(path, lines, what):
    """Says on standard error how many rows of a file are left out, if any.

    Args:
        path: The file.
        lines: The numbers of their lines.
        what: What is wrong with them, such as "without text".
    """
    if lines:
        print(
            f"skipped: {len(lines)} rows of {path} {what}, the first in line "
            f"{lines[0]}",
            file=sys.stderr,
        )


def read_texts(file):
    """Returns the lines of a file, or of standard input, that are not empty.

    Raises:
        BadInput: The file is missing, empty or not UTF-8.
    """
    name = "standard input" if str(file) == "-" else f"--file {file}"
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{name} cannot be read: {error.strerror}; pass a file with one text in "
            "each line"
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
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise BadInput(f"{name} has no text; write one in each line")
    return texts


def check_texts(texts):
    """Checks texts from the command line.

    Raises:
        BadInput: One is empty or not UTF-8.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise BadInput(f"text {number} is empty; write at least one word")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                f"text {number} is not UTF-8; use a terminal that writes UTF-8, or "
                "--file"
            ) from error


def train_sentencepiece(texts, vocabulary_size, replacements, **options):
    """Learns which pieces of words are worth a number of their own.

    Args:
        texts: Strings to learn from.
        vocabulary_size: The most pieces; little text yields fewer.
        replacements: What characters are replaced by, before a text is split; the
            model file contains them.
        **options: SentencePiece's. Unless `bos_id` and `eos_id` are given, no piece
            marks the begin or the end of a text.

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
                "no vocabulary can be learned from the training texts; --data needs "
                f"more of them, with words, or --vocabulary-size {vocabulary_size} is "
                "too small for their letters"
            ) from error
    return model.getvalue()
