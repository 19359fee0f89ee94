"""`mainspring report`: write a run's report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import out


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]) -> None:
    """Write RUN/report.html: curves, the plan against what was measured, evaluation, samples; one file by
    itself."""
    from mainspring.recipes.report import write_report

    out().print(str(write_report(run)), markup=False)
