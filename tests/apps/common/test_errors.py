import errno
import os
import subprocess
import sys

import pytest

from apps.common.errors import (
    BadInput,
    ExportRefused,
    closest,
    first_line,
    flag,
    reported,
    why_file_failed,
)


def test_exit_statuses_differ():
    assert BadInput.exit_status == 2
    assert ExportRefused.exit_status == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flower", "; did you mean 'flowers'?"),
        ("FLOWERS", "; choose from: digits, flowers"),  # Case matters.
        ("xyz", "; choose from: digits, flowers"),
        ("", "; choose from: digits, flowers"),
    ],
)
def test_the_closest_name_or_all_names(name, expected):
    assert closest(name, iter(["digits", "flowers"])) == expected


def test_the_flag_of_a_setting():
    assert flag("batch_size") == "--batch-size"
    assert flag("epochs") == "--epochs"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  first\n"), "first"),
        (EOFError(), "EOFError"),
        (KeyError("name"), "'name'"),
    ],
)
def test_the_first_line_of_an_error(error, expected):
    assert first_line(error) == expected


SPACE = "No space left on device; free some space, or choose another folder"


class TensorflowError(Exception):
    """An error of TensorFlow, without TensorFlow."""


TensorflowError.__module__ = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), SPACE),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), f"a.png: {SPACE}"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs"),
            "/runs: Permission denied; change its permissions, or choose another "
            "folder",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/runs"),
            "/runs: Read-only file system; change its permissions, or choose another "
            "folder",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.txt/b"),
            "a.txt/b: Not a directory; correct the path",
        ),
        (
            FileExistsError(errno.EEXIST, "File exists", "a.txt"),
            "a.txt: File exists; correct the path",
        ),
        # As h5py and TensorFlow report it.
        (
            OSError(
                "Can't write data (file write failed: filename = '/runs/a.h5', "
                "errno = 28, error message = 'No space left on device', buf = 0x1)"
            ),
            f"/runs/a.h5: {SPACE}",
        ),
        (
            TensorflowError("/runs/1/logs; No space left on device"),
            f"/runs/1/logs: {SPACE}",
        ),
        # Bugs keep their traceback.
        (TensorflowError("OOM when allocating tensor"), None),
        (OSError(errno.ECONNREFUSED, "Connection refused"), None),
        (ValueError("No space left on device"), None),
        (OSError("something else"), None),
    ],
)
def test_what_is_wrong_with_a_file(error, expected):
    assert why_file_failed(error) == expected


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (BadInput("no such thing"), 2, "error: no such thing\n"),
        (ExportRefused("too bad"), 1, "error: too bad\n"),
        (IsADirectoryError(errno.EISDIR, "", "a"), 2, "error: a: Is a directory; corr"),
        (BrokenPipeError(errno.EPIPE, ""), 141, ""),
    ],
)
def test_a_mistake_ends_with_a_sentence_after_the_answers(error, status, says, capfd):
    def answer_and_fail():
        print("an answer", end="")
        raise error

    with pytest.raises(SystemExit) as stop, reported():
        answer_and_fail()
    assert stop.value.code == status
    out, err = capfd.readouterr()
    assert out == "an answer"
    assert err.startswith(says)
    assert len(err.splitlines()) == (1 if says else 0)


def test_a_bug_passes():
    with pytest.raises(ZeroDivisionError), reported():
        1 / 0  # noqa: B018


PROGRAM = """
from apps.common.errors import reported
with reported():
    for i in range(100_000):
        print(i)
"""


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = write_to(pipe)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_behind_the_output_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = write_to(full)
    assert (done.returncode, done.stderr) == (2, f"error: {SPACE}\n")


def write_to(stdout):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
