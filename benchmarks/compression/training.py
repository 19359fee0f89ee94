"""Training inside a benchmark: told as it goes, broken off by a signal, taken up by the next call."""

from __future__ import annotations

from pathlib import Path

from mainspring.parallel import World
from mainspring.train import Recipe, Trainer
from mainspring.train.events import Event, StepDone


def train(recipe: Recipe, run: Path) -> None:
    """Carry a recipe out in this process, from the newest checkpoint in the folder of the run.

    Raises:
        SystemExit: a signal came; what was done is saved.
    """

    def tell(event: Event) -> None:
        if isinstance(event, StepDone) and event.step % 20 == 0:
            print(
                f"step {event.step}/{recipe.train.steps} loss {event.loss:.4f} eta {event.eta_seconds:.0f} s",
                flush=True,
            )

    with World.start(recipe.plan, device="cpu", threads=1) as world:
        if Trainer(recipe, run, world, [tell]).fit().status != "finished":
            raise SystemExit(f"broken off and saved: the same command goes on in {run}")
