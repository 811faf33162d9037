"""JSON as the official server reads and writes it."""

import json
import math
import random

import pytest

from serving import json_text
from serving.status import ServingError


def make_value(generator, depth=0):
    """Returns any JSON value."""
    kind = generator.randrange(8 if depth < 4 else 6)
    if kind == 6:
        return [make_value(generator, depth + 1) for _ in range(generator.randrange(4))]
    if kind == 7:
        names = generator.sample(["a", "b:", "é", '"', ""], generator.randrange(4))
        return {name: make_value(generator, depth + 1) for name in names}
    return generator.choice(
        [
            None,
            generator.random() < 0.5,
            generator.randint(-(2**63), 2**64 - 1),
            generator.uniform(-1, 1) * 10.0 ** generator.randint(-300, 300),
            "".join(generator.choices('aé\n:\\"\x7f\U0001f600 ', k=5)),
            generator.randint(-9, 9),
        ]
    )


@pytest.mark.parametrize("are_ascii", [False, True])
def test_both_parsers_read_what_pythons_json_reads(are_ascii):
    generator = random.Random(0)
    for _ in range(500):
        text = json.dumps(make_value(generator), ensure_ascii=are_ascii).encode()
        expected = json.loads(text)
        assert json_text.parse(text) == expected
        # The rest makes the fast parser refuse the text.
        assert json_text.parse(b"\t" + text + b" rest") == expected


def test_pretty_text_reads_back():
    generator = random.Random(1)
    for _ in range(500):
        value = make_value(generator)
        assert json.loads(json_text.pretty(value)) == value


def test_arrays_count_as_levels_of_indentation():
    value = {"instances": [{"a": 1}, 2]}
    assert json_text.pretty(value) == (
        '{\n    "instances": [{\n            "a": 1\n        }, 2]\n}'
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e20, "100000000000000000000.0"),
        (1e21, "1e21"),
        (1.5e50, "1.5e50"),
        (1.25e-6, "0.00000125"),
        (1e-7, "1e-7"),
        (-2.5, "-2.5"),
        (math.inf, "Infinity"),
    ],
)
def test_numbers_are_quoted_as_the_server_quotes_them(number, text):
    assert json_text.pretty([number]) == f"[{text}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "The document is empty"),
        (b"  ", "The document is empty. at offset: 2"),
        (b"nul", "Invalid value. at offset: 3"),
        (b"[01]", "Missing a comma or ] after an array element. at offset: 2"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"[1e]", "Miss exponent in number. at offset: 3"),
        (b"[1e999]", "Number too big to be stored in double. at offset: 1"),
        (b"[-]", "Invalid value. at offset: 2"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a":1 "b"}', "Missing a comma or } after an object member. at offset: 7"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'["\xc3\xa9', "Missing a closing quotation mark in string. at offset: 4"),
        (b'["\x01"]', "Invalid encoding in string. at offset: 2"),
        (b'["\\x"]', "Invalid escape character in string. at offset: 2"),
        (b'["\\u12"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
    ],
)
def test_the_message_says_what_is_wrong_and_where(text, message):
    with pytest.raises(ServingError) as error:
        json_text.parse(text)
    assert error.value.message == f"JSON Parse error: {message}"


def test_the_first_of_repeated_members_counts():
    value = json_text.parse(b'{"a": 1, "b": 2, "a": 3}')
    assert (value["a"], value["b"]) == (1, 2)
    assert list(json_text.members(value)) == [("a", 1), ("b", 2), ("a", 3)]


def test_bytes_that_are_not_utf8_stay():
    (text,) = json_text.parse(b'["\xff"]')
    assert text.encode("utf-8", "surrogateescape") == b"\xff"
