"""What each rank of a pipeline does in which order, as values: the runtime carries them out, the planner's
tick simulator times and draws them.

Sources: PipeDream (SOSP '19) section 3.2, 1F1B-RR; PipeDream-2BW and PipeDream-Flush, Narayanan et al. 2021
(arXiv 2006.09503) section 3; GPipe, Huang et al. 2019 (arXiv 1811.06965).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from mainspring.errors import PlanError, suggest
from mainspring.parallel.pipedream.layout import Layout, whole_rounds

Semantics = Literal["stashing", "vertical_sync", "2bw", "flush", "gpipe", "unstashed"]
"""What weights a gradient is of.

- "stashing": at each stage those of the minibatch's forward there; an update a minibatch, no flush.
- "vertical_sync": at all stages those that stage 0 had at the minibatch's forward.
- "2bw": an update every `accumulate` minibatches, from the weights one update older than the newest.
- "flush": 1F1B, drained before each update: plain SGD on `accumulate` minibatches.
- "gpipe": the same numbers; all forwards, then all backwards.
- "unstashed": as "stashing" but backward meets whatever weights are newest: a wrong gradient, for comparison.
"""
ASYNCHRONOUS = ("stashing", "vertical_sync", "unstashed")
"""Semantics that update after every minibatch."""


class Op(NamedTuple):
    """One thing that a rank does."""

    kind: Literal["F", "B", "W", "U"]
    """Forward; backward (where W follows: towards the input alone); backward towards weights; update, in
    which the replicas of a stage meet."""
    batch: int
    """Number of the minibatch (micro-batch); of an update: how many went before it."""
    stage: int
    """Stage."""

    def __str__(self) -> str:
        return f"{self.kind}{self.batch} of stage {self.stage}"


def check(layout: Layout, semantics: Semantics, count: int, accumulate: int) -> None:
    """Refuse numbers that do not go together.

    Raises:
        PlanError: what was given and the nearest legal number.
    """
    if semantics not in get_args(Semantics):
        raise PlanError(f"semantics {semantics!r} is unknown; {suggest(semantics, get_args(Semantics))}")
    if semantics in ASYNCHRONOUS and accumulate != 1:
        raise PlanError(
            f"{semantics} updates after every minibatch and accumulate is {accumulate}; use 1, or 2bw"
        )
    unit = math.lcm(*layout.replicas, accumulate)
    if semantics not in ASYNCHRONOUS and not whole_rounds(layout.replicas, accumulate):
        each = math.lcm(*layout.replicas)
        raise PlanError(
            f"accumulate = {accumulate} minibatches do not share out evenly over replicas {layout.replicas}; "
            f"use a multiple of {each}"
        )
    if count < 0 or count % unit:
        raise PlanError(
            f"{count} minibatches are no whole number of updates at every stage; nearest: "
            f"{max(1, round(count / unit)) * unit}"
        )
    if semantics == "2bw":
        least = max(layout.warmup(s) * r for s, r in enumerate(layout.replicas))
        if accumulate < least:
            raise PlanError(
                f"2bw keeps two versions only if accumulate is at least the {least} minibatches in flight "
                f"ahead of a stage; it is {accumulate}"
            )


def order(layout: Layout, rank: int, semantics: Semantics, count: int, accumulate: int = 1) -> list[Op]:
    """What one rank does to train `count` minibatches, from an empty pipeline to an empty pipeline.

    Args:
        layout: stages over ranks.
        rank: whose order it is.
        semantics: see `Semantics`.
        count: minibatches, in all.
        accumulate: minibatches of an update; 1 for the asynchronous semantics, whose replicated stages
            update after a round of their replicas.

    Raises:
        PlanError: the numbers do not go together.
    """
    check(layout, semantics, count, accumulate)
    stage, replica = layout.place(rank)
    many = layout.replicas[stage]
    mine = list(range(replica, count, many))
    if semantics in ("flush", "gpipe"):
        per = accumulate // many
        ahead = per if semantics == "gpipe" else min(layout.warmup(stage), per)
        return [
            op
            for update in range(len(mine) // per)
            for op in _one_f_one_b(mine[update * per : (update + 1) * per], stage, ahead, per, update)
        ]
    per = accumulate // many if semantics == "2bw" else 1
    return list(_one_f_one_b(mine, stage, layout.warmup(stage), per, 0))


def orders(layout: Layout, semantics: Semantics, count: int, accumulate: int = 1) -> list[list[Op]]:
    """The orders of all ranks."""
    return [order(layout, rank, semantics, count, accumulate) for rank in range(layout.workers)]


def _one_f_one_b(mine: list[int], stage: int, ahead: int, per: int, update: int) -> Iterator[Op]:
    """`ahead` forwards, then forward and backward in turn, an update after every `per` backwards."""
    yield from (Op("F", index, stage) for index in mine[:ahead])
    for done, index in enumerate(mine):
        if done + ahead < len(mine):
            yield Op("F", mine[done + ahead], stage)
        yield Op("B", index, stage)
        if (done + 1) % per == 0:
            yield Op("U", update, stage)
            update += 1
