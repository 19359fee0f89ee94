"""OData filters: the text of `filter` and `orderby` as the conditions of `products.search`.

The grammar is the part of OData 4 that Azure AI Search documents for plain fields: eq ne gt ge lt le, and,
or, not, parentheses, texts in single quotes, numbers, true, false, null, and search.in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from mainspring.errors import UsageError
from mainspring.products.search.documents import Value
from mainspring.products.search.filters import Among, Both, Compare, Either, Filter, Not, Sign

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<name>[^\W\d][\w.]*)|(?P<sign>[(),]))"
)
_SIGNS: dict[str, Sign] = {"eq": "=", "ne": "<>", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_WORDS = {"true": True, "false": False, "null": None}
_DEEPEST = 50


class Order(NamedTuple):
    """A field that results are sorted by."""

    field: str
    """Its name, or `search.score()`."""
    descending: bool


def order(names: list[str]) -> list[Order]:
    """The clauses of `orderby`.

    Raises:
        UsageError: one is no field with asc or desc.
    """
    found = []
    for name in names:
        match = re.fullmatch(r"(search\.score\(\)|[^\W\d]\w*)(?:\s+(asc|desc))?", name)
        if match is None:
            raise UsageError(f"orderby {name!r}: should be a field, or search.score(), with asc or desc")
        found.append(Order(match[1], match[2] == "desc"))
    return found


def read(text: str, rename: Callable[[str], str]) -> Filter:
    """A filter.

    Args:
        text: an OData expression.
        rename: from a field's name in the API to ours.

    Raises:
        UsageError: it is none; the message says where.
    """
    return _Parser(text, rename).whole()


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str, rename: Callable[[str], str]) -> None:
        self._text, self._rename = text, rename
        self._tokens = self._scan()
        self._next = self._depth = 0

    def whole(self) -> Filter:
        found = self._either()
        if self._peek().kind != "end":
            raise self._fault("'and', 'or' or the end")
        return found

    def _scan(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while at < len(self._text.rstrip()):
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise UsageError(
                    f"filter: cannot be read at character {at + 1}: {self._text[at : at + 20]!r}"
                )
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()
        return [*tokens, _Token("end", "", len(self._text))]

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, kind: str, expected: str, *words: str) -> str:
        token = self._peek()
        if token.kind != kind or (words and token.text not in words):
            raise self._fault(expected)
        self._next += 1
        return token.text

    def _fault(self, expected: str) -> UsageError:
        token = self._peek()
        found = repr(token.text) if token.text else "the end"
        return UsageError(f"filter: expected {expected} at character {token.at + 1}, found {found}")

    def _either(self) -> Filter:
        parts = [self._both()]
        while self._peek()[:2] == ("name", "or"):
            self._next += 1
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _both(self) -> Filter:
        parts = [self._one()]
        while self._peek()[:2] == ("name", "and"):
            self._next += 1
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _one(self) -> Filter:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UsageError(f"filter: is nested more than {_DEEPEST} deep")
        try:
            token = self._peek()
            if token[:2] == ("name", "not"):
                self._next += 1
                return Not(self._one())
            if token[:2] == ("sign", "("):
                self._next += 1
                inner = self._either()
                self._take("sign", "')'", ")")
                return inner
            if token[:2] == ("name", "search.in"):
                return self._among()
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Filter:
        field = self._field()
        token = self._peek()
        if token.kind != "name" or token.text not in _SIGNS:
            return Compare(field, "=", True)  # a field of true and false stands by itself
        self._next += 1
        sign = _SIGNS[token.text]
        return Compare(field, sign, self._value())

    def _field(self) -> str:
        name = self._take("name", "the name of a field")
        if name in _WORDS or name in _SIGNS or "." in name:
            self._next -= 1
            raise self._fault("the name of a field")
        return self._rename(name)

    def _value(self) -> Value:
        token = self._peek()
        if token.kind == "text":
            self._next += 1
            return token.text[1:-1].replace("''", "'")
        if token.kind == "number":
            self._next += 1
            return float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        if token.kind == "name" and token.text in _WORDS:
            self._next += 1
            return _WORDS[token.text]
        raise self._fault("a text in single quotes, a number, true, false or null")

    def _among(self) -> Filter:
        self._next += 1
        self._take("sign", "'('", "(")
        field = self._field()
        self._take("sign", "','", ",")
        values = self._take("text", "values in single quotes")[1:-1].replace("''", "'")
        separators = ", "
        if self._peek()[:2] == ("sign", ","):
            self._next += 1
            separators = self._take("text", "separators in single quotes")[1:-1].replace("''", "'")
        self._take("sign", "')'", ")")
        parts = re.split(f"[{re.escape(separators)}]", values) if separators else [values]
        return Among(field, tuple(part for part in parts if part))
