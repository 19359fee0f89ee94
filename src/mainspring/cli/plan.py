"""`mainspring plan`: what a recipe would take, before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.console import out, table, write_json
from mainspring.cli.options import AsJson, Overrides, RecipeName

if TYPE_CHECKING:
    from mainspring.recipes.forecast import Forecast


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    ranks_here: Annotated[
        int | None,
        typer.Option(
            "--ranks-here",
            min=1,
            help="Ranks of the plan that share this machine; all of them where left out.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe takes: parameters, bytes of a rank by kind, FLOPs, traffic, expected time.

    Rates are measured on this machine in a second or two; nothing of the model is allocated. A plan that
    does not fit is refused with the numbers and with one that would.

    mainspring plan gpt2-small plan.zero=3 plan.data=16 --ranks-here 2
    """
    from mainspring.recipes import load
    from mainspring.recipes.forecast import forecast

    found = forecast(load(recipe, overrides or ()), local_ranks=ranks_here)
    if as_json:
        write_json(found.as_dict())
    else:
        show_forecast(found)


def show_forecast(found: Forecast) -> None:
    """Print a forecast as a table."""
    from mainspring.planner.units import amount

    recipe, machine = found.recipe, found.machine
    shown = table(
        f"{recipe.name}: data={recipe.plan.data} zero={recipe.plan.zero} "
        f"remat={str(recipe.plan.remat).lower()}, {recipe.train.precision}",
        "",
        ">",
    )
    shown.show_header = False
    for what, much in found.rows():
        shown.add_row(what, much, style="dim" if what.startswith("  ") else "")
    out().print(shown)
    rate = machine.flops(recipe.train.precision)
    out().print(
        f"vocabulary from {found.vocabulary_from}; measured here: {amount(rate)}FLOP/s a rank in "
        f"{recipe.train.precision} with {machine.ranks} at work",
        markup=False,
        style="dim",
    )
