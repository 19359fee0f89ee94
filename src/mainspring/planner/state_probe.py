"""What parallel states take in a step however few its tokens, timed on one rank of a CPU.

Every micro-batch goes through all parameters whatever its length: gathered rows are filled, gradients are
copied into rows, added up and reduced, modules and their hooks are called. Two small models of opposite
shapes, many thin layers and few wide ones, are stepped with so few tokens that little else is left; from the
two follow the seconds of a unit and those of a parameter (`Device.states`).

Where ranks are more than cores, what one waits for another computes: time is then what all of them compute,
shared between the cores, and not their waiting, which in a real step is filled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.models.gpt2.config import gpt2
from mainspring.nn import Transformer, initialize
from mainspring.optim.config import OptimConfig
from mainspring.parallel.plan import Plan
from mainspring.parallel.precision import Precision
from mainspring.parallel.world import usable_cores
from mainspring.planner.inventory import inventory_of

_TOKENS = 8
SHAPES = (
    gpt2(64, 12, 1, vocab_size=64, max_positions=_TOKENS),
    gpt2(384, 2, 6, vocab_size=4096, max_positions=_TOKENS),
)
"""Many units and few parameters; few units and many parameters."""
FURTHER = 2
"""Micro-batches after the first by which the seconds of a further one are told."""

Rates = tuple[float, float]
"""Seconds of a unit and of a parameter."""


def state_seconds(
    zero: int, ranks: int, precision: Precision, slowest: Callable[[float], float]
) -> tuple[Rates, Rates]:
    """Seconds of a step's forward and backward passes with next to no tokens; every rank calls it.

    Args:
        zero: ZeRO stage.
        ranks: over which it shards.
        precision: of forward and backward.
        slowest: the greatest value of all ranks.

    Returns:
        Of a step's first micro-batch, with all that a step does once, and of a further one.
    """
    once, further = [], []
    for config in SHAPES:
        with torch.device("meta"):
            model = Transformer(config)
        parallel.apply(model, Plan(data=ranks, zero=zero), precision=precision)  # type: ignore[arg-type]
        parallel.materialize(model, "cpu", _fill)
        optimizer = optim.build(model, OptimConfig())
        one = slowest(_passes(model, optimizer, 1, ranks))
        more = slowest(_passes(model, optimizer, 1 + FURTHER, ranks))
        once.append(one)
        further.append(max(more - one, 0.0) / FURTHER)
    return _rates(once), _rates(further)


def _fill(module: torch.nn.Module) -> None:
    initialize(module, 0)


def _passes(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, micro_batches: int, ranks: int
) -> float:
    """Median seconds of the passes of a step; the update is left out."""
    ids = torch.randint(0, SHAPES[0].vocab_size, (1, _TOKENS))
    crowd = ranks * torch.get_num_threads() / usable_cores()
    seconds = []
    for _ in range(8):  # the same number on every rank
        before, computed = time.perf_counter(), time.process_time()
        for index in range(micro_batches):
            last = index == micro_batches - 1
            with nullcontext() if last else parallel.no_sync(model):
                logits = model(causal_batch(ids)).logits.float().flatten(0, 1)
                torch.autograd.backward(F.cross_entropy(logits, ids.flatten(), reduction="sum"))
        taken, computed = time.perf_counter() - before, time.process_time() - computed
        seconds.append(taken if crowd <= 1 else min(taken, crowd * computed))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return statistics.median(seconds[1:])


def _rates(seconds: list[float]) -> Rates:
    """Solve units x a + parameters x b = seconds for the two shapes; neither is below nothing."""
    sizes = [(len(found.units), found.total) for found in map(inventory_of, SHAPES)]
    (units, few), (fewer, many) = sizes
    determinant = units * many - fewer * few
    unit = (seconds[0] * many - seconds[1] * few) / determinant
    element = (units * seconds[1] - fewer * seconds[0]) / determinant
    if element < 0:
        return seconds[0] / units, 0.0
    if unit < 0:
        return 0.0, seconds[1] / many
    return unit, element
