"""One call that trains: what the command line, the quickstart and every torchrun worker use."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from mainspring.parallel import World
from mainspring.train.events import Sink
from mainspring.train.recipe import Recipe
from mainspring.train.trainer import Trainer


def run_recipe(
    recipe: Recipe, run_dir: str | Path, sinks: Sequence[Sink] = (), *, device: str | None = None
) -> int:
    """Train a recipe in this process, as one rank of those that torchrun started, or alone.

    Args:
        recipe: the run.
        run_dir: its folder; a run found there goes on.
        sinks: are told every event, on rank 0.
        device: "cpu" or "cuda"; None takes CUDA where there is a device.

    Returns:
        An exit status: 0 if the run is finished, 128 + n if signal n interrupted it (it has saved; the same
        call goes on).

    Raises:
        MainspringError: as `Trainer.fit`.
    """
    plan = None if recipe.train.elastic else recipe.plan
    with World.start(plan, device=device, threads=recipe.train.threads) as world:
        result = Trainer(recipe, run_dir, world, sinks).fit()
    if result.status == "interrupted":
        return 128 + int(result.signal or signal.SIGTERM)
    return 0
