"""Engines that watch the steps of optimizers, and go while one is under way."""

import gc
from typing import Any, cast

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from mainspring.parallel.zero.engine import Flat
from mainspring.parallel.zero.optimizers import watch_steps


class Watcher:
    """The part of an engine that is told of steps."""

    def __init__(self, shard: Any, told: list[str]) -> None:
        self.shards, self._told = [shard], told

    def before_step(self, shards: list[Any], optimizer: Any) -> None:
        self._told.append("before")

    def after_step(self, shards: list[Any], optimizer: Any) -> None:
        self._told.append("after")


class Piece:
    """A shard of one piece."""

    def __init__(self, piece: torch.Tensor) -> None:
        self.pieces = [piece]


def test_an_engine_may_go_while_an_optimizer_steps() -> None:
    """Collected among the hooks that torch is calling, it must leave their table as it is."""
    told: list[str] = []
    mine, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    lives: list[Any] = [Watcher(Piece(mine), told)]

    def drop(optimizer: Any, args: Any, kwargs: Any) -> None:
        lives.clear()
        gc.collect()

    handle = register_optimizer_step_post_hook(drop)
    try:
        watch_steps(cast("Flat", lives[0]))
        stays = Watcher(Piece(mine), told)
        watch_steps(cast("Flat", stays))
        mine.grad = torch.ones(2)
        torch.optim.SGD([mine], lr=0.1).step()
        assert told.count("before") == 2 and "after" in told and not lives
        told.clear()
        torch.optim.SGD([mine], lr=0.1).step()
        assert told == ["before", "after"]
        torch.optim.SGD([other], lr=0.1).step()
        assert len(told) == 2
    finally:
        handle.remove()
