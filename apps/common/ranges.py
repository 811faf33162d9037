"""Ranges of settings and flags: each is part of a type, and one function checks all.

@dataclass(frozen=True)
class Config:
    dropout: Rate = 0.2

    def __post_init__(self):
        check_ranges(Config, vars(self))
"""

import typing
from collections.abc import Callable, Iterator, Mapping
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


def check_ranges(annotated: Callable, values: Mapping[str, Any]) -> None:
    """Checks numbers against the ranges in the type hints of a class or a function.

    A tuple is checked number by number. None is never out of range.

    Args:
        annotated: The class of the settings, or the function whose flags they are.
        values: The settings by name.

    Raises:
        BadInput: A number is out of range, or is not a number (NaN).
    """
    hints = typing.get_type_hints(annotated, include_extras=True)
    for name, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        for smallest, largest in ranges(hints[name]):
            for number in numbers:
                # Written so that NaN fails too.
                if number is not None and not smallest <= number <= largest:
                    raise BadInput(
                        f"{flag(name)} {number} must be from {smallest} to {largest}"
                    )


def ranges(hint: object) -> Iterator[Range]:
    """Returns the ranges in a type hint, those inside tuples and unions included."""
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, Range):
            yield each
    for part in typing.get_args(hint):
        yield from ranges(part)
