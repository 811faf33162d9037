"""Errors that a command reports in one sentence, with its exit status."""

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """The user's input cannot be used; the message names it and the remedy."""

    exit_status = 2


class ExportRefused(Exception):
    """An exported model failed a check, so nothing was published."""

    exit_status = 1


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
