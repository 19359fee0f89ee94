"""What a report tells, gathered from the files of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.errors import DataError
from mainspring.train.recipe import Recipe
from mainspring.train.run import Run
from mainspring.train.sinks import read

Values = dict[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """A run as its files tell it; what the run has not made yet is None or empty."""

    run: Run
    recipe: Recipe
    recipe_toml: str
    started: Values | None
    """The last `run_started` event: parameters, batch, device."""
    begun: Values | None
    """The last `first_step` event: how long the start took, and its peak memory."""
    steps: list[Values]
    """`step_done` events in order."""
    evaluated: list[Values]
    """`evaluated` events in order."""
    ended: Values | None
    """The last `run_ended` event."""
    seconds: float
    """Time in steps, over all the times the run was taken up."""
    plan: Values | None
    """plan.json: what the planner expected."""
    evaluation: Values | None
    """evaluation.json: the model's score beside the baselines."""
    samples: list[Values]
    """samples.json: prompts and completions."""
    summary: Values | None
    """summary.json: how long the steps of a quickstart took, and what reloading showed."""

    @property
    def peak_memory(self) -> int | None:
        """Largest memory measured on the reporting rank, in bytes."""
        return max((s["memory_bytes"] for s in self.steps), default=None)

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        if not self.steps:
            return 0
        per_step: int = self.steps[-1]["tokens"]
        return per_step * int(self.steps[-1]["step"])

    def median(self, field: str) -> float | None:
        """Median of a field of the steps, the first of them left out where there are more than three."""
        values = sorted(s[field] for s in (self.steps[1:] if len(self.steps) > 3 else self.steps))
        return float(values[len(values) // 2]) if values else None


def gather(run_dir: str | Path) -> RunFacts:
    """Read a run directory.

    Raises:
        DataError: it is no run, or has no metrics yet.
    """
    run = Run(Path(run_dir))
    if not run.recipe.is_file():
        raise DataError(
            f"{run_dir}: not a run directory (no {run.recipe.name}); give the directory that "
            "`mainspring train` wrote"
        )
    events = list(read(run.metrics))
    if not events:
        raise DataError(
            f"{run_dir}: no metrics yet ({run.metrics.name} is missing or empty); train first: "
            f"mainspring train {run_dir}"
        )

    def named(kind: str) -> list[Values]:
        return [e for e in events if e["event"] == kind]

    steps = [
        s for s in named("step_done") if all(isinstance(s[k], int | float) for k in ("loss", "grad_norm"))
    ]
    return RunFacts(
        run=run,
        recipe=run.read_recipe(),
        recipe_toml=run.recipe.read_text(encoding="utf-8"),
        started=next(iter(reversed(named("run_started"))), None),
        begun=next(iter(reversed(named("first_step"))), None),
        steps=steps,
        evaluated=named("evaluated"),
        ended=next(iter(reversed(named("run_ended"))), None),
        seconds=sum(e["seconds"] for e in named("run_ended")),
        plan=_json(run.plan),
        evaluation=_json(run.evaluation),
        samples=_json(run.samples) or [],
        summary=_json(run.dir / "summary.json"),
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
