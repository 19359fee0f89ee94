"""Filters: conditions on a document's key, language, source and fields, as a small tree that becomes SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mainspring.errors import UsageError, suggest
from mainspring.products.search.documents import RESERVED, Value

Sign = Literal["=", "<>", "<", "<=", ">", ">="]
# By key and not by path: SQLite's paths cannot name every field.
FIELD = "(SELECT value FROM json_each(fields) WHERE json_each.key = ?)"
"""A field of a document, in SQL; its mark is the field's name."""
_COLUMNS = ("key", "title", "url", "language", "source")


@dataclass(frozen=True, slots=True)
class Compare:
    """A field beside a value; a field that is missing equals None alone."""

    field: str
    sign: Sign
    value: Value


@dataclass(frozen=True, slots=True)
class Among:
    """A field that has one of several values."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Both:
    """All conditions hold."""

    conditions: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One condition holds, or more."""

    conditions: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """A condition does not hold."""

    condition: Filter


Filter = Compare | Among | Both | Either | Not
Given = Filter | Mapping[str, Value | Sequence[Value]] | None
"""A filter, or a table of fields and the value or values that each must have."""


def read(given: Given) -> Filter | None:
    """A filter of what a caller gave.

    >>> read({"language": "en", "year": [2020, 2021]}) == Both((Compare("language", "=", "en"),
    ...     Among("year", (2020, 2021))))
    True

    Raises:
        UsageError: a value is of no kind that fields have.
    """
    if given is None or isinstance(given, Filter):
        return given
    conditions: list[Filter] = []
    for name, value in given.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            conditions.append(Among(name, tuple(_checked(name, v) for v in value)))
        else:
            conditions.append(Compare(name, "=", _checked(name, value)))
    return Both(tuple(conditions)) if conditions else None


def _checked(name: str, value: Any) -> Value:
    if value is not None and not isinstance(value, str | int | float | bool):
        raise UsageError(
            f"filter {name}: should be text, a number, true, false or none, not {type(value).__name__}"
        )
    return value


def sql(condition: Filter) -> tuple[str, list[Any]]:
    """A condition over the table `documents`, and the values of its marks.

    Raises:
        UsageError: it names the text itself, which is searched and not filtered.
    """
    if isinstance(condition, Both | Either):
        parts = [sql(c) for c in condition.conditions]
        joint = " AND " if isinstance(condition, Both) else " OR "
        return "(" + joint.join(text for text, _ in parts) + ")", [v for _, values in parts for v in values]
    if isinstance(condition, Not):
        text, values = sql(condition.condition)
        return f"(NOT coalesce({text}, 0))", values
    column, values = _column(condition.field)
    if isinstance(condition, Among):
        marks = ",".join("?" * len(condition.values))
        return f"coalesce({column} IN ({marks}), 0)", [*values, *map(_plain, condition.values)]
    if condition.sign in ("=", "<>"):
        return f"({column} IS {'NOT ' * (condition.sign == '<>')}?)", [*values, _plain(condition.value)]
    return f"coalesce({column} {condition.sign} ?, 0)", [*values, _plain(condition.value)]


def _column(field: str) -> tuple[str, list[Any]]:
    if field in _COLUMNS:
        return field, []
    if field in RESERVED:
        raise UsageError(f"filter {field!r}: the text is searched, not filtered; {suggest(field, _COLUMNS)}")
    return FIELD, [field]


def _plain(value: Value) -> Value:
    return int(value) if isinstance(value, bool) else value
