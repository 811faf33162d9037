"""Errors that a command reports in one sentence, with its exit status."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# What to do where the system refuses to write or read a file, by error number. Other
# numbers are bugs.
REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "free some space, or choose another folder",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "change its permissions, or choose another folder",
    ),
    **dict.fromkeys(
        (
            *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
            *(errno.ENAMETOOLONG, errno.ELOOP),
        ),
        "correct the path",
    ),
    errno.EIO: "check the disk, or choose another folder",
}
BROKEN_PIPE_STATUS = 141  # As the shell reports a program that SIGPIPE ended.


class BadInput(Exception):
    """The user's input cannot be used; the message names it and the remedy."""

    exit_status = 2


class ExportRefused(Exception):
    """An exported model failed a check, so nothing was published."""

    exit_status = 1


@contextmanager
def reported() -> Iterator[None]:
    """Reports errors that the user can fix in one sentence, and exits.

    These are `BadInput`, `ExportRefused`, and files that cannot be written or read. A
    reader that closes the pipe ends the program without a word. Other exceptions are
    bugs, and pass.
    """
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # Answers come before the sentence.
    except (BadInput, ExportRefused) as error:
        stop(str(error), error.exit_status)
    except BrokenPipeError:
        _drop_output()
        sys.exit(BROKEN_PIPE_STATUS)
    except Exception as error:
        sentence = why_file_failed(error)
        if sentence is None:
            raise
        _drop_output()
        stop(sentence, BadInput.exit_status)


def stop(message: str, status: int) -> NoReturn:
    """Prints an error message and exits."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _drop_output():
    """Drops output that cannot be written; the interpreter would try once more."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def why_file_failed(error: BaseException) -> str | None:
    """Returns what is wrong with a file, and the remedy; None for other errors.

    Errors of TensorFlow and of h5py have the system's message in their text.
    """
    if not isinstance(error, OSError) and "tensorflow" not in type(error).__module__:
        return None
    for number, remedy in REMEDIES.items():
        reason = os.strerror(number)
        if getattr(error, "errno", None) == number or re.search(
            rf"(; |error message = '){reason}", str(error)
        ):
            path = getattr(error, "filename", None) or _path_in(str(error), reason)
            return f"{path}: {reason}; {remedy}" if path else f"{reason}; {remedy}"
    return None


def _path_in(text, reason):
    """Returns the path that a message of h5py or of TensorFlow names, or None."""
    match = re.search(rf"name = '(.+?)'|(\S+); {reason}", text)
    return match and (match[1] or match[2])


def closest(name: str, names: Iterable[str]) -> str:
    """Returns `"; did you mean 'flowers'?"`, or all names if none is close."""
    names = list(names)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean '{matches[0]}'?"
    return "; choose from: " + ", ".join(names)


def flag(setting: str) -> str:
    """Returns the flag of a setting: `--batch-size` for `batch_size`."""
    return "--" + setting.replace("_", "-")


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
