"""Every plan over a number of ranks of a device, for a recipe: what fits, what is best, why not the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.errors import ConfigError
from mainspring.models import resolve
from mainspring.nn import TransformerConfig
from mainspring.objectives import OwnsModules
from mainspring.planner import (
    Costed,
    Device,
    Found,
    Rejected,
    Space,
    Verified,
    calibrated,
    inventory_of,
    search,
    verify,
    work_of,
)
from mainspring.planner.candidate import Candidate
from mainspring.planner.device import device as known_device
from mainspring.planner.explain import totals
from mainspring.planner.search import judge
from mainspring.planner.units import amount, duration
from mainspring.recipes.forecast import objective_of, vocabulary
from mainspring.train.recipe import Recipe


@dataclass(frozen=True)
class Survey:
    """What a search found for a recipe."""

    recipe: Recipe
    config: TransformerConfig
    device: Device
    world: int
    found: Found
    own: Costed | Rejected | None
    """The recipe's own plan, where it is one for so many ranks."""
    checked: Verified | None
    """The best plan that runs today, counted in a fake world; None where that was not asked for."""

    def lines(self) -> list[str]:
        """What a person should read below the table."""
        said = [
            f"{len(self.found.fits):,} plans fit, {len(self.found.rejected):,} do not (--explain says why). "
            "The table has those that no other beats in seconds, device bytes or ranks. (rows of a "
            "micro-batch x micro-batches) stand behind a plan."
        ]
        for label, runs in (("best", False), ("best of those that run today", True)):
            best = next((c for c in self.found.fits if not (runs and c.candidate.missing())), None)
            if best is not None:
                said += [f"{label}: {best.candidate.overrides()}", *totals(best.cost, self.device)]
        if isinstance(self.own, Rejected):
            said.append(f"the recipe's own plan does not fit: {self.own.reason}")
        elif self.own is not None:
            seconds = duration(self.own.cost.seconds_per_step)
            said.append(
                f"the recipe's own plan: {seconds} a step, {amount(self.own.cost.memory, 'B')} a rank"
            )
        if self.checked is not None:
            counted, predicted = (sum(k.values()) for k in (self.checked.counted, self.checked.predicted))
            said.append(
                f"fake world: {amount(counted, 'B')} of states counted on a rank, {amount(predicted, 'B')} "
                f"predicted ({self.checked.error:.2%} off), in {duration(self.checked.seconds)} and "
                f"{amount(self.checked.resident, 'B')}"
            )
        return said

    def as_dict(self, *, explain: bool = False) -> dict[str, Any]:
        """Plain values for JSON; rejected candidates only with `explain`: they are thousands."""
        result: dict[str, Any] = {
            "recipe": self.recipe.name,
            "world": self.world,
            "device": self.device.model_dump(mode="json"),
            "pareto": [one.as_dict() for one in self.found.pareto],
            "fits": len(self.found.fits),
            "rejected": len(self.found.rejected),
            "own": None if self.own is None else self.own.as_dict(),
        }
        if self.checked is not None:
            result["checked"] = {
                "plan": self.checked.candidate.as_dict(),
                "predicted": self.checked.predicted,
                "counted": self.checked.counted,
                "error": self.checked.error,
                "seconds": self.checked.seconds,
                "resident": self.checked.resident,
            }
        if explain:
            result["reasons"] = [one.as_dict() for one in self.found.rejected]
        return result


def survey(
    recipe: Recipe,
    *,
    world: int | None = None,
    device: str = "cpu",
    more: Sequence[Path] = (),
    ranks_here: int | None = None,
    fresh: bool = False,
    check: bool = False,
    space: Space | None = None,
) -> Survey:
    """Search all plans for a recipe.

    Args:
        recipe: its batch, rows, precision and objective count; its plan is costed beside the others.
        world: ranks; None: those of its plan.
        device: "cpu" (this machine, calibrated), or a name of the catalogue.
        more: files with further devices.
        ranks_here: ranks that share this machine (device "cpu"); None: all.
        fresh: calibrate anew.
        check: count the best plan that runs today in a fake world.
        space: what is tried; None: everything.

    Raises:
        ConfigError: the batch is not whole rows, or there is no such device.
        PlanError: with `check`, nothing fits that runs today.
    """
    world = world or recipe.plan.world
    tokens, seq_len, precision = recipe.train.batch_tokens, recipe.data.seq_len, recipe.train.precision
    if tokens % seq_len:
        near = max(1, tokens // seq_len) * seq_len
        raise ConfigError(
            f"train.batch_tokens = {tokens} is not whole rows of data.seq_len = {seq_len}; nearest: {near}"
        )
    config = resolve(recipe.model, vocabulary(recipe)[0])
    objective = objective_of(recipe, config)
    target = (
        calibrated(ranks_here or world, recipe.train.threads, fresh=fresh)
        if device == "cpu"
        else known_device(device, *more)
    )
    inventory, work = inventory_of(config, objective), work_of(config, seq_len, recipe.objective)
    rows = tokens // seq_len
    found = search(inventory, work, target, world, rows, precision, space=space)
    own = None
    if recipe.plan.world == world and rows % recipe.plan.data == 0:
        per_rank = rows // recipe.plan.data
        cuts = [n for n in range(1, per_rank + 1) if per_rank % n == 0]
        tried = [
            judge(inventory, work, Candidate.of(recipe.plan, n, per_rank // n), target, precision)
            for n in cuts
        ]
        fits = [one for one in tried if isinstance(one, Costed)]
        own = min(fits, key=lambda c: c.cost.seconds_per_step) if fits else tried[0]
    checked = None
    if check:
        owned = objective if isinstance(objective, OwnsModules) else None
        best = found.best(runs=True).candidate
        checked = verify(config, best, precision, objective=owned)
    return Survey(recipe, config, target, world, found, own, checked)
