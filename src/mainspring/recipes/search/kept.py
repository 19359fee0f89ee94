"""Results that took a while, kept in a file: a command that was stopped need not work them out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mainspring.train.files import replace_file


def kept(path: Path, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a name that a file holds, or else what is computed, which the file then holds."""
    held: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if name not in held:
        held[name] = compute()
        replace_file(path, json.dumps(held, indent=1, ensure_ascii=False).encode("utf-8"))
    return held[name]
