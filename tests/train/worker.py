"""A rank of a tiny run, for tests that kill it: python worker.py RECIPE.toml RUN_DIR [slow-saves]."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mainspring.config import load_toml
from mainspring.parallel import World
from mainspring.train import Recipe, Trainer
from mainspring.train.checkpoint import shards
from train.tiny import MACHINE


def main(recipe_path: str, run_dir: str, slow: float = 0.0, step_seconds: float = 0.0) -> int:
    """Train; `slow` makes every file of a checkpoint take that many seconds, half before and half after its
    bytes."""
    torch.set_num_threads(1)
    recipe = load_toml(Recipe, recipe_path)
    honest = shards._write_data

    def slowly(*args: object) -> object:
        time.sleep(slow / 2)
        result = honest(*args)  # type: ignore[arg-type]
        args[0].flush()  # type: ignore[attr-defined]
        time.sleep(slow / 2)
        return result

    if slow:
        shards._write_data = slowly  # type: ignore[assignment]
    with World.start(None if recipe.train.elastic else recipe.plan, device="cpu", threads=1) as world:
        sinks = [lambda event: time.sleep(step_seconds)] if step_seconds else []
        result = Trainer(recipe, run_dir, world, sinks, machine=MACHINE).fit()
    return 0 if result.status == "finished" else 128 + int(result.signal or 15)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3], *(float(a) for a in sys.argv[3:])))
