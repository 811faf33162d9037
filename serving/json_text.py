"""JSON as TensorFlow Serving reads and writes it.

The server's parser accepts `NaN`, `Infinity` and `Inf`, ignores what follows the first
value, keeps the first of two members with one name, and does not check UTF-8. Bytes
that are not UTF-8 are lone surrogates in our strings, as `surrogateescape` makes them.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import orjson

from serving.status import ServingError, invalid

# More than the 64 dimensions of a tensor need. Python's stack has room for it.
MAX_DEPTH = 256
_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]*)?")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = dict(zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True))
_WORDS = {"n": ("null", None), "t": ("true", True), "f": ("false", False)}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "Inf": math.inf}

quote = json.encoder.encode_basestring  # Leaves letters other than ASCII as they are.


class Repeated(dict[str, Any]):
    """An object with repeated names: a dictionary of the first member of each name.

    Args:
        pairs: All members, in order.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(reversed(pairs))
        self.pairs = pairs


def members(value: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Returns the members of an object, repeated names included."""
    return value.pairs if isinstance(value, Repeated) else value.items()


def parse(body: bytes) -> Any:
    """Returns the first JSON value of a text.

    Raises:
        ServingError: The text is no JSON; the message has the place of the error.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _Parser(body).parse()
    # Each name has a colon. If there are more, some are in strings or names repeat.
    colons = body.count(b":")
    may_be_deep = body.count(b"[") + body.count(b"{") > MAX_DEPTH
    if (colons > 1 or may_be_deep) and _count_names(value) != colons:
        return _Parser(body).parse()
    return value


def _count_names(value: Any) -> int | None:
    """Returns the number of names, None if there are more than `MAX_DEPTH` levels."""
    count = 0
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if not {dict, list} & set(map(type, level)):
            return count
        objects = [item for item in level if type(item) is dict]
        count += sum(map(len, objects))
        level = [
            *itertools.chain.from_iterable(
                item for item in level if type(item) is list
            ),
            *itertools.chain.from_iterable(map(dict.values, objects)),
        ]
    return None


class _Parser:
    """Reads what the fast parser refuses, and says what is wrong and where."""

    def __init__(self, body: bytes) -> None:
        self.text = body.removeprefix(b"\xef\xbb\xbf").decode(
            "utf-8", "surrogateescape"
        )
        self.place = 0

    def parse(self) -> Any:
        self.skip()
        if self.place == len(self.text):
            raise self.error("The document is empty.")
        return self.value(0)

    def error(self, what: str, place: int | None = None) -> ServingError:
        before = self.text[: self.place if place is None else place]
        offset = len(before.encode("utf-8", "surrogateescape"))
        return invalid(f"JSON Parse error: {what} at offset: {offset}")

    def skip(self) -> str:
        """Skips white space and returns the next character, empty at the end."""
        self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]
        return self.text[self.place : self.place + 1]

    def value(self, depth: int) -> Any:
        first = self.text[self.place : self.place + 1]
        if first == '"':
            return self.string()
        if first in ("{", "["):
            if depth == MAX_DEPTH:
                raise self.error(f"Nesting of more than {MAX_DEPTH} levels.")
            return self.object(depth) if first == "{" else self.array(depth)
        if first in _WORDS:
            word, value = _WORDS[first]
            self.word(word)
            return value
        return self.number()

    def word(self, word: str) -> None:
        for letter in word:
            if not self.text.startswith(letter, self.place):
                raise self.error("Invalid value.")
            self.place += 1

    def number(self) -> int | float:
        start = self.place
        found = _NUMBER.match(self.text, start)
        if not found:
            return self.not_finite()
        self.place = found.end()
        fraction, exponent = found.groups()
        if fraction == ".":
            self.place = found.end(1)
            raise self.error("Miss fraction part in number.")
        if exponent and not exponent[-1].isdigit():
            raise self.error("Miss exponent in number.")
        if fraction is None and exponent is None and found.end() - start <= 20:
            whole = int(found[0])
            if -(2**63) <= whole < 2**64:
                return whole
        number = float(found[0])
        if math.isinf(number):
            raise self.error("Number too big to be stored in double.", start)
        return number

    def not_finite(self) -> float:
        sign = -1 if self.text.startswith("-", self.place) else 1
        self.place += sign < 0
        for word, number in _NOT_FINITE.items():
            if self.text.startswith(word, self.place):
                self.place += len(word)
                return sign * number
        raise self.error("Invalid value.")

    def array(self, depth: int) -> list[Any]:
        self.place += 1
        values: list[Any] = []
        if self.skip() == "]":
            self.place += 1
            return values
        while True:
            values.append(self.value(depth + 1))
            end = self.skip()
            if end not in (",", "]"):
                raise self.error("Missing a comma or ] after an array element.")
            self.place += 1
            if end == "]":
                return values
            self.skip()

    def object(self, depth: int) -> dict[str, Any]:
        self.place += 1
        pairs: list[tuple[str, Any]] = []
        end = self.skip()
        while end != "}":
            if self.skip() != '"':
                raise self.error("Missing a name for object member.")
            name = self.string()
            if self.skip() != ":":
                raise self.error("Missing a colon after a name of object member.")
            self.place += 1
            self.skip()
            pairs.append((name, self.value(depth + 1)))
            end = self.skip()
            if end == ",":
                self.place += 1
            elif end != "}":
                raise self.error("Missing a comma or } after an object member.")
        self.place += 1
        value = dict(pairs)
        return value if len(value) == len(pairs) else Repeated(pairs)

    def string(self) -> str:
        self.place += 1
        parts = []
        while True:
            plain = _PLAIN.match(self.text, self.place)
            parts.append(plain[0])  # type: ignore[index]
            self.place = plain.end()  # type: ignore[union-attr]
            end = self.text[self.place : self.place + 1]
            if end == '"':
                self.place += 1
                return "".join(parts)
            if end == "\\":
                parts.append(self.escape())
            elif end in ("", "\0"):
                raise self.error("Missing a closing quotation mark in string.")
            else:
                raise self.error("Invalid encoding in string.")

    def escape(self) -> str:
        start = self.place
        letter = self.text[start + 1 : start + 2]
        if letter in _ESCAPES:
            self.place += 2
            return _ESCAPES[letter]
        if letter != "u":
            raise self.error("Invalid escape character in string.")
        high = self.code_unit(start)
        if not 0xD800 <= high <= 0xDFFF:
            return chr(high)
        if high <= 0xDBFF and self.text.startswith("\\u", self.place):
            low = self.code_unit(start)
            if 0xDC00 <= low <= 0xDFFF:
                return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
        raise self.error("The surrogate pair in string is invalid.", start)

    def code_unit(self, start: int) -> int:
        digits = _HEX.match(self.text, self.place + 2)
        if not digits:
            what = "Incorrect hex digit after \\u escape in string."
            raise self.error(what, start)
        self.place = digits.end()
        return int(digits[0], 16)


def pretty(value: Any, indent: int = 0) -> str:
    """Returns JSON with one member a line and each array on one line.

    Error messages quote requests in this form.

    Args:
        value: What `parse` returned.
        indent: Levels of indentation of the lines after the first. Arrays count, too.
    """
    if isinstance(value, dict):
        if not value:
            return "{}"
        space = "    " * (indent + 1)
        lines = [
            f"{space}{quote(name)}: {pretty(member, indent + 1)}"
            for name, member in members(value)
        ]
        return "{\n" + ",\n".join(lines) + "\n" + "    " * indent + "}"
    if isinstance(value, list):
        return "[" + ", ".join(pretty(item, indent + 1) for item in value) + "]"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, float) and math.isfinite(value):
        return _shortest(value)
    return json.dumps(value)


def _shortest(number: float) -> str:
    """Returns the shortest text of a double, plain from 1e-6 to 1e21."""
    text = repr(number)
    if "e" not in text:
        return text
    digits, exponent = text.split("e")
    power = int(exponent)
    if 0 <= power < 21:
        return f"{number:.1f}"
    if -6 <= power < 0:
        num_digits = len(digits.lstrip("-").replace(".", ""))
        return f"{number:.{num_digits - power - 1}f}"
    return f"{digits}e{power}"


def error_body(message: str) -> bytes:
    """Returns the body of an answer that is an error."""
    text = '{\n    "error": ' + quote(message) + "\n}"
    return text.encode("utf-8", "surrogateescape")
