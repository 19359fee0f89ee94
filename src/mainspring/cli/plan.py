"""`mainspring plan`: what a recipe would take, before anything is allocated, and which plan suits best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.console import out, table, write_json
from mainspring.cli.options import AsJson, Overrides, RecipeName
from mainspring.errors import PlanError

if TYPE_CHECKING:
    from mainspring.planner import Found
    from mainspring.recipes.forecast import Forecast
    from mainspring.recipes.survey import Survey


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    world: Annotated[
        int | None, typer.Option(min=1, help="Search all plans over so many ranks.", show_default=False)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="What a rank computes on: cpu (this machine, calibrated), or one of the catalogue: "
            "v100-32g, a100-40g, a100-80g, h100-80g, h200.",
            show_default=False,
        ),
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(help="TOML file with further devices, in the catalogue's form.", show_default=False),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say why every other plan was rejected.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Carry the best plan that runs out in a fake world and count its bytes."
        ),
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine anew (device cpu).")
    ] = False,
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
    does not fit is refused with the numbers and with one that would. With a world or a device, all plans over
    so many ranks are searched as well.

    mainspring plan gpt2-small plan.zero=3 plan.data=16 --ranks-here 2

    mainspring plan turing-nlg-17b --world 256 --device v100-32g
    """
    from mainspring.recipes import load

    if world is None and device is None and not (explain or verify or calibrate):
        from mainspring.recipes.forecast import forecast

        found = forecast(load(recipe, overrides or ()), local_ranks=ranks_here)
        if as_json:
            write_json(found.as_dict())
        else:
            show_forecast(found)
        return
    from mainspring.recipes.survey import survey

    seen = survey(
        load(recipe, overrides or ()),
        world=world,
        device=device or "cpu",
        more=[devices] if devices else [],
        ranks_here=ranks_here,
        fresh=calibrate,
        check=verify,
    )
    if as_json:
        write_json(seen.as_dict(explain=explain))
    else:
        show_survey(seen, explain=explain)
    if not seen.found.fits:
        raise PlanError(seen.found.nearest())


def show_forecast(found: Forecast) -> None:
    """Print a forecast as a table."""
    from mainspring.planner.units import amount

    recipe, machine = found.recipe, found.machine
    shown = table(
        f"{recipe.name}: {recipe.plan.spread}, zero={recipe.plan.zero} "
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


def show_survey(seen: Survey, *, explain: bool) -> None:
    """Print what a search found: the plans that nothing beats, the best in full, and why not the others."""
    from mainspring.planner.units import amount, duration

    shown = table(f"{seen.recipe.name} over {seen.world} ranks of {seen.device.name}", "plan", ">s/step")
    for name in ("tokens/s", "device", "host", "disk", "runs"):
        shown.add_column(name, justify="right")
    for one in seen.found.pareto:
        cost = one.cost
        shown.add_row(
            f"{one.candidate.overrides()} ({one.candidate.micro_rows} x {one.candidate.accumulation})",
            duration(cost.seconds_per_step),
            amount(cost.tokens_per_second),
            amount(cost.memory, "B"),
            amount(cost.host, "B") if cost.host else "",
            amount(cost.disk, "B") if cost.disk else "",
            "not yet" if one.candidate.missing() else "yes",
        )
    out().print(shown)
    for line in seen.lines():
        out().print(line, markup=False)
    if explain:
        show_rejected(seen.found)


def show_rejected(found: Found) -> None:
    """Print why candidates were rejected: each reason once, with how many it struck and one of them."""
    from mainspring.planner.explain import reasons

    shown = table("rejected", ">plans", "why", "for one")
    for reason, number, example in reasons(found.rejected):
        shown.add_row(f"{number:,}", reason, example.overrides())
    out().print(shown)
