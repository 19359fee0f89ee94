"""Where commands write: results to stdout, news and errors to stderr; how numbers read."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table


def out() -> Console:
    """The console for results (stdout). Words that look like markup are printed as they are."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """The console for news and errors (stderr)."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def write_json(value: Any) -> None:
    """Print a value as JSON on stdout, for other programs to read."""
    out().print(json.dumps(value, indent=2, ensure_ascii=False, default=str), markup=False)


def table(title: str, *columns: str, caption: str = "") -> Table:
    """A table in the house style: numbers (columns that begin with `>`) to the right."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption or None,
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made
