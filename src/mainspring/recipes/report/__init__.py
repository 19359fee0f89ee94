"""The report of a run, for a person: `write_report`."""

from __future__ import annotations

from pathlib import Path

from mainspring.recipes.report.facts import gather
from mainspring.recipes.report.page import render
from mainspring.train.files import replace_file

__all__ = ["write_report"]


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Raises:
        DataError: it is no run, or has no metrics yet.
        MissingExtraError: matplotlib is not installed.
    """
    facts = gather(run_dir)
    replace_file(facts.run.report, render(facts).encode())
    return facts.run.report
