from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from apps.common import ranges
from apps.common.errors import BadInput
from apps.common.ranges import Range, check_ranges


def check(hint, value):
    """Checks a configuration with one field, `max_words`."""

    @dataclass(frozen=True)
    class Config:
        max_words: hint

    check_ranges(Config, vars(Config(value)))


Small = Annotated[int, Range(1, 3)]


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (Small, (1, 3), (0, 4, -1)),
        (ranges.Fraction, (0, 0.5, 1), (-0.01, 1.01)),
        (ranges.PartialFraction, (0.001, 0.9), (0, 0.91, 1)),
        (ranges.Rate, (0, 0.99), (-0.1, 1)),
        (ranges.LearningRate, (1e-9, 1), (0, -1, 11)),
        (ranges.Weight, (0, 100), (-1e-9, 1e7)),
        (ranges.PositiveNumber, (1e-6, 5), (0, -1)),
        (ranges.Count, (1, 10**6), (0, -1)),
        (ranges.CountOrZero, (0, 10**6), (-1,)),
        (ranges.Seed, (0, 2**31 - 1), (-1, 2**31)),
    ],
)
def test_the_bounds_belong_to_the_range(hint, good, bad):
    for value in good:
        check(hint, value)
    for value in (*bad, float("nan"), float("inf"), -float("inf")):
        with pytest.raises(BadInput, match=r"--max-words .* must be from"):
            check(hint, value)


def test_the_message_names_flag_value_and_range():
    with pytest.raises(BadInput, match=r"^--max-words 7 must be from 1 to 3$"):
        check(Small, 7)


def test_none_is_never_out_of_range():
    check(Small | None, None)
    check(Small | None, 3)
    with pytest.raises(BadInput, match="--max-words 4"):
        check(Small | None, 4)


@pytest.mark.parametrize("hint", [tuple[Small, Small], tuple[Small, ...]])
def test_every_number_of_a_tuple_is_checked(hint):
    check(hint, (1, 3))
    for value in ((0, 1), (1, 4), (1, float("nan"))):
        with pytest.raises(BadInput, match="--max-words"):
            check(hint, value)


def test_other_fields_are_not_checked():
    check(str, "many")
    check(bool, False)
    check(Literal["few", "many"], "few")
    check(int, -1)


@pytest.mark.parametrize(
    "hint",
    [
        Small,
        Small | None,
        tuple[Small, ...],
        tuple[Small, ...] | None,
        tuple[str, tuple[Small, str]],
        Annotated[int, "a note", Range(1, 3)],
    ],
)
def test_ranges_are_found_inside_other_types(hint):
    assert list(ranges.ranges(hint)) == [Range(1, 3)]


def test_a_type_without_range_has_none():
    for hint in (int, str | None, tuple[int, ...], Annotated[int, "a note"]):
        assert not list(ranges.ranges(hint))
