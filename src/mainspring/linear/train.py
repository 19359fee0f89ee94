"""Fit a linear model: sequential SGD, or the same by several workers whose blocks are composed (SymSGD)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from mainspring.errors import NonFiniteError, UsageError
from mainspring.linear.block import Portable, Weights
from mainspring.linear.kernel import compiled_or_portable
from mainspring.linear.losses import LOSSES
from mainspring.linear.model import LinearModel
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings
from mainspring.linear.workers import Workers


@dataclass(frozen=True)
class BlockDone:
    """Progress within an epoch: examples so far of all, their rate, and what is left."""

    examples: int
    of: int
    examples_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over: `loss` is the mean loss of each example before it was learnt from."""

    epoch: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Slow:
    """The portable pass is used, and why."""

    reason: str


Event = BlockDone | EpochDone | Slow
Round = Callable[[int, int, int, int], float]


def fit(
    rows: SparseRows,
    settings: LinearSettings | None = None,
    *,
    start: LinearModel | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    portable: bool = False,
) -> LinearModel:
    """Train on `rows`, each epoch in an order drawn anew from (seed, epoch).

    Args:
        rows: examples; targets are -1 and +1 unless the loss is least squares.
        settings: how.
        start: a model to go on from: its weights, and the examples and epochs it has seen count on.
        on_event: told of progress.
        portable: use the numpy pass even where there is a compiler.

    Returns:
        The model. With `workers=1` it is plain SGD; with more it is, for least squares and the exact
        combiner, the same up to rounding.

    Raises:
        UsageError: targets or sizes do not fit.
        NonFiniteError: the weights grew without bound.
        RunFault: a worker died.
    """
    settings = settings or LinearSettings()
    _check(rows, settings, start)
    seen, epochs = (start.examples, start.epochs) if start else (0, 0)
    weights = Weights(start.weights.copy() if start else np.zeros(rows.features, dtype=np.float32))
    per_round = settings.block * settings.workers
    whole, done, began = settings.epochs * len(rows), 0, time.monotonic()
    with ExitStack() as stack:
        weights, take_order, run = _runner(rows, weights, settings, portable, stack, on_event)
        for epoch in range(epochs, epochs + settings.epochs):
            epoch_began, loss = time.monotonic(), 0.0
            take_order(np.random.default_rng((settings.seed, epoch)).permutation(len(rows)))
            for first, last in _spans(len(rows), per_round):
                loss += run(first, last, seen, settings.workers * seen)
                seen += last - first
                done += last - first
                if not np.isfinite(loss):
                    raise NonFiniteError(
                        f"the loss is {loss} after {seen:,} examples: steps are too long for this data; try "
                        f"rate={settings.rate / 10:g} (it was {settings.rate:g}), or scale the features"
                    )
                rate = done / max(time.monotonic() - began, 1e-9)
                on_event(BlockDone(done, whole, rate, (whole - done) / rate))
            on_event(EpochDone(epoch + 1, loss / len(rows), time.monotonic() - epoch_began))
        result = weights.whole().astype(np.float32)
    return LinearModel(result, settings, examples=seen, epochs=epochs + settings.epochs)


def _runner(
    rows: SparseRows,
    weights: Weights,
    settings: LinearSettings,
    portable: bool,
    stack: ExitStack,
    on_event: Callable[[Event], None],
) -> tuple[Weights, Callable[[np.ndarray], None], Round]:
    """The weights that change, what takes a new order, and what passes over a part of it."""
    loops, reason = (Portable(), "") if portable else compiled_or_portable()
    if reason:
        on_event(Slow(reason))
    if settings.workers > 1:
        workers = stack.enter_context(Workers(rows, weights, settings, loops))
        return workers.weights, workers.order, workers.round
    order = np.empty(len(rows), dtype=np.int64)

    def alone(first: int, last: int, t: int, seed: int) -> float:
        loss = loops.pass_over(rows, order[first:last], t, settings.steps, weights, None).loss
        weights.settle()
        return loss

    return weights, lambda new: order.__setitem__(slice(None), new), alone


def _spans(total: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, step):
        yield first, min(first + step, total)


def _check(rows: SparseRows, settings: LinearSettings, start: LinearModel | None) -> None:
    if not len(rows):
        raise UsageError("there are no examples to train on")
    if LOSSES[settings.loss].classifies and not np.isin(rows.targets, (-1, 1)).all():
        wrong = rows.targets[~np.isin(rows.targets, (-1, 1))][0]
        raise UsageError(
            f"loss = {settings.loss!r} needs targets -1 and +1; the data has {wrong:g}: read it as "
            "classes, or use loss='least_squares'"
        )
    if settings.schedule == "constant" and settings.rate * settings.l2 >= 1:
        raise UsageError(f"rate x l2 = {settings.rate * settings.l2:g} turns weights around; keep it below 1")
    if start is not None and len(start.weights) != rows.features:
        raise UsageError(
            f"the model has {len(start.weights):,} features and the data {rows.features:,}: read the "
            f"data with features={len(start.weights)}"
        )
