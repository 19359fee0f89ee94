"""Benchmarks are run by hand: that they can be is checked here."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT) for path in (ROOT / "benchmarks").rglob("*.py") if path.name != "__main__.py"
)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_a_benchmark_imports_is_there(path):
    importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
