"""Typed, frozen configuration: TOML or Python in, dotted overrides, JSON schema out.

A configuration is a tree of `Section`s. Unknown keys, wrong types and impossible values are errors that name
the field, the value given and the nearest legal choice. Nothing here knows any particular section.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mainspring.errors import ConfigError, suggest

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A frozen, strict group of settings. Subclass it with typed fields and defaults."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, ser_json_inf_nan="constants"
    )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, validated like the original."""
        return parse(type(self), {**self.model_dump(mode="json"), **changes})


def parse(section: type[S], values: Mapping[str, Any], *, source: str = "") -> S:
    """Build a section from plain values (what TOML or JSON gives).

    Raises:
        ConfigError: one line for each fault: dotted field, value, what is legal.
    """
    try:
        # Through JSON, so that strict mode takes lists for tuples as it does in a JSON document.
        return section.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        where = f" in {source}" if source else ""
        lines = [_explain(section, fault) for fault in error.errors()]
        raise ConfigError(f"{section.__name__}{where}: " + "; ".join(lines)) from None


def load_toml(section: type[S], path: str | Path, overrides: Iterable[str] = ()) -> S:
    """Read a section from a TOML file and apply dotted overrides (`train.steps=100`).

    Raises:
        ConfigError: the file is missing or not TOML, or the values do not fit the section.
    """
    return parse(section, apply_overrides(read_toml(path), overrides), source=str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file into plain values.

    Raises:
        ConfigError: the file is missing or not TOML (the line is named).
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with each `dotted.key=value` set; the value is read as TOML, else taken as a string.

    >>> apply_overrides({"train": {"steps": 5}}, ["train.steps=7", "model.family=gpt2"])
    {'train': {'steps': 7}, 'model': {'family': 'gpt2'}}
    """
    result: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"override {override!r}: write it as section.field=value, e.g. train.steps=100")
        *parents, leaf = (part.strip() for part in key.split("."))
        node = result
        for depth, part in enumerate(parents):
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"override {override!r}: {'.'.join(parents[: depth + 1])} is not a section")
        node[leaf] = _toml_value(text)
    return result


def to_toml(section: Section) -> str:
    """Write a section as TOML that `load_toml` reads back to an equal section (None is left out)."""
    lines: list[str] = []
    _write_table(section.model_dump(mode="json", exclude_none=True), [], lines)
    return "\n".join(lines).strip() + "\n"


def json_schema(section: type[Section]) -> dict[str, Any]:
    """The JSON schema of a section, for editors and other tools."""
    return section.model_json_schema()


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _write_table(table: Mapping[str, Any], path: list[str], lines: list[str]) -> None:
    nested = {k: v for k, v in table.items() if isinstance(v, dict)}
    plain = {k: v for k, v in table.items() if k not in nested}
    if path and (plain or not nested):
        lines += ["", f"[{'.'.join(_key(p) for p in path)}]"]
    lines += [f"{_key(k)} = {_toml_literal(v)}" for k, v in plain.items()]
    for key, value in nested.items():
        _write_table(value, [*path, key], lines)


def _key(key: str) -> str:
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else _string(key)


def _toml_literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_toml_literal(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_literal(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)
    if value is None:
        raise ConfigError(
            "None in a table of free fields (model.config, say): TOML cannot write it. Leave the field out, "
            "or, for an expert's capacity_factor, give inf"
        )
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(text: str) -> str:
    """JSON and TOML agree on strings once DEL, which TOML forbids raw, is escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _explain(section: type[Section], fault: ErrorDetails) -> str:
    field = ".".join(str(part) for part in fault["loc"]) or "value"
    if fault["type"] == "extra_forbidden":
        known = _fields_at(section, fault["loc"][:-1])
        return f"{field}: unknown key; {suggest(str(fault['loc'][-1]), known)}"
    if fault["type"] == "missing":
        return f"{field}: required and not given"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "value_error":
        return f"{field}: {message}" if fault["loc"] else message
    hint = ""
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        choices = [c.strip(" '") for c in str(fault["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        hint = f" ({suggest(fault['input'], choices)})"
    return f"{field} = {fault['input']!r}: should be {message}{hint}"


def _fields_at(section: type[Section], path: tuple[int | str, ...]) -> set[str]:
    """Names of the fields of the section (or sections, in a union) that `path` leads to."""
    here: list[type[Section]] = [section]
    for part in path:
        deeper = [
            s for h in here if part in h.model_fields for s in _sections(h.model_fields[str(part)].annotation)
        ]
        # A tagged union puts its tag in the path: stay where we are.
        here = (
            deeper
            or [h for h in here if any(part in get_args(f.annotation) for f in h.model_fields.values())]
            or here
        )
    return {name for h in here for name in h.model_fields}


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple, list, dict):
        return [s for arg in get_args(annotation) for s in _sections(arg)]
    return []
