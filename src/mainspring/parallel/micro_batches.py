"""A step's micro-batches through a model, on whatever plan: the same loop for one stage and for many.

With the layers spread over a pipeline no rank can go forward and backward by itself, so the loop is not the
user's any more; these verbs are it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from mainspring.parallel.strategy import strategy_of

M = TypeVar("M")
R = TypeVar("R")


def accumulate(
    model: nn.Module, micro_batches: Sequence[M], loss: Callable[[nn.Module, M], Tensor]
) -> list[Tensor]:
    """Add the gradients of all micro-batches of a step to the parameters, reduced over the plan's ranks.

    Every rank of a pipeline gives the same micro-batches: only activations and their gradients travel.

    Args:
        model: with or without a plan.
        micro_batches: anything; their tensors are the same in number and shape on all ranks of a pipeline.
        loss: of the model it is given (in a pipeline not `model` itself) and a micro-batch: a scalar. In a
            pipeline it calls the model once, and what it does after that happens on the last stage's rank.

    Returns:
        The losses, detached; [] on a rank of a pipeline that has not the last stage.

    Raises:
        PlanError: the schedule cannot take so many micro-batches, or `loss` calls the model more or less than
            once in a pipeline.
    """
    strategy = strategy_of(model)
    if strategy.pipeline is not None:
        return strategy.pipeline.accumulate(micro_batches, loss)
    losses = []
    for index, micro_batch in enumerate(micro_batches):
        with nullcontext() if index == len(micro_batches) - 1 else strategy.no_sync():
            value = loss(model, micro_batch)
            value.backward()  # type: ignore[no-untyped-call]
        losses.append(value.detach())
    return losses


def measure(model: nn.Module, micro_batches: Sequence[M], result: Callable[[nn.Module, M], R]) -> list[R]:
    """Run micro-batches forward alone, without gradients.

    Args:
        model: as for `accumulate`.
        micro_batches: likewise.
        result: of the model and a micro-batch; in a pipeline it calls the model once.

    Returns:
        The results; [] on a rank of a pipeline that has not the last stage.
    """
    pipeline = strategy_of(model).pipeline
    if pipeline is not None:
        return pipeline.measure(micro_batches, result)
    with torch.no_grad():
        return [result(model, micro_batch) for micro_batch in micro_batches]


def elsewhere(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that other ranks of a pipeline keep, and this one does not."""
    pipeline = strategy_of(model).pipeline
    return frozenset() if pipeline is None else pipeline.kept.elsewhere


def has_results(model: nn.Module) -> bool:
    """Whether `accumulate` and `measure` give results on this rank."""
    pipeline = strategy_of(model).pipeline
    return pipeline is None or pipeline.kept.parts[pipeline.kept.mine[-1]].last
