"""Ranges of settings: each is part of a field's type, and one function checks all.

@dataclass(frozen=True)
class Config:
    dropout: Rate = 0.2

    def __post_init__(self):
        check_ranges(self)
"""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from apps.common.errors import BadInput, flag


class Range(NamedTuple):
    """The smallest and the largest value that a setting may have."""

    smallest: float
    largest: float


# A fraction may be 0 or 1. A rate is below 1.
Fraction = Annotated[float, Range(0, 1)]
PartialFraction = Annotated[float, Range(0.001, 0.9)]
Rate = Annotated[float, Range(0, 0.99)]
LearningRate = Annotated[float, Range(1e-9, 10)]
Weight = Annotated[float, Range(0, 1e6)]
PositiveNumber = Annotated[float, Range(1e-6, 1e6)]
Count = Annotated[int, Range(1, 10**6)]
Minutes = Annotated[float, Range(0.01, 1e6)]
CountOrZero = Annotated[int, Range(0, 10**6)]
Seed = Annotated[int, Range(0, 2**31 - 1)]


def check_ranges(config: Any) -> None:
    """Checks every number of a configuration against the range of its field.

    A tuple is checked number by number. None is never out of range.

    Raises:
        BadInput: A number is out of range, or is not a number (NaN).
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values = value if isinstance(value, tuple) else (value,)
        for smallest, largest in ranges(hints[field.name]):
            for number in values:
                # Written so that NaN fails too.
                if number is not None and not smallest <= number <= largest:
                    raise BadInput(
                        f"{flag(field.name)} {number} must be from {smallest} to "
                        f"{largest}"
                    )


def ranges(hint: object) -> Iterator[Range]:
    """Returns the ranges in a type hint, those inside tuples and unions included."""
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, Range):
            yield each
    for part in typing.get_args(hint):
        yield from ranges(part)
