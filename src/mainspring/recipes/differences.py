"""What differs between two recipes, field by field."""

from __future__ import annotations

from typing import Any

from mainspring.config import Section


def differences(before: Section, now: Section) -> list[tuple[str, str, str]]:
    """Fields that differ between two of one kind, as (dotted field, value before, value now); values as
    TOML-like words, "nothing" for none."""
    old, new = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    return [
        (field, _words(old.get(field)), _words(new.get(field)))
        for field in sorted({*old, *new})
        if old.get(field) != new.get(field)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _words(value: Any) -> str:
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
