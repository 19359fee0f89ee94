"""What parallel states take in a step however few its tokens, timed on one rank of a CPU.

Every micro-batch goes through all parameters whatever its length: gathered rows are filled, gradients are
copied into rows, added up and reduced, modules and their hooks are called. Two small models of opposite
shapes, many thin layers and few wide ones, are stepped with so few tokens that little else is left; from the
two follow the seconds of a unit and those of a parameter (`Device.states`).

What is left without any states is timed alike, on the bare models: every product reads its weights and writes
their gradient, every module is called. That is in the seconds of computation already (`Device.compute_scale`,
by the tokens of a micro-batch), so states are charged only what they take beyond it.

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
from mainspring.nn import Transformer, TransformerConfig, initialize
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


def pass_seconds(precision: Precision, ranks: int, slowest: Callable[[float], float]) -> Rates:
    """Seconds of a forward and backward of a bare model with next to no tokens; every rank calls it.

    Args:
        precision: of forward and backward.
        ranks: that do so at once.
        slowest: the greatest value of all ranks.
    """
    return _rates([slowest(_passes(_bare(config, precision), None, 1, ranks)) for config in SHAPES])


def state_seconds(
    zero: int, precision: Precision, bare: Rates, ranks: int, slowest: Callable[[float], float]
) -> tuple[Rates, Rates]:
    """Seconds that states add to a step's forward and backward passes; every rank calls it.

    Args:
        zero: ZeRO stage.
        precision: of forward and backward.
        bare: what passes take without states (`pass_seconds`).
        ranks: over which states are sharded.
        slowest: the greatest value of all ranks.

    Returns:
        Of a step's first micro-batch, with all that a step does once, and of a further one.
    """
    once, further = [], []
    for config, (units, parameters) in zip(SHAPES, _sizes(), strict=True):
        with torch.device("meta"):
            model = Transformer(config)
        parallel.apply(model, Plan(data=ranks, zero=zero), precision=precision)  # type: ignore[arg-type]
        parallel.materialize(model, "cpu", _fill)
        optimizer = optim.build(model, OptimConfig())
        without = units * bare[0] + parameters * bare[1]
        one = slowest(_passes(model, optimizer, 1, ranks))
        more = slowest(_passes(model, optimizer, 1 + FURTHER, ranks))
        once.append(max(one - without, 0.0))
        further.append(max((more - one) / FURTHER - without, 0.0))
    return _rates(once), _rates(further)


def _bare(config: TransformerConfig, precision: Precision) -> torch.nn.Module:
    return initialize(Transformer(config), 0).to(torch.bfloat16 if precision == "bf16" else torch.float32)


def _fill(module: torch.nn.Module) -> None:
    initialize(module, 0)


def _passes(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, micro_batches: int, ranks: int
) -> float:
    """Median seconds of the passes of a step; the update is left out. Without an optimizer the model is
    bare."""
    ids = torch.randint(0, SHAPES[0].vocab_size, (1, _TOKENS))
    crowd = ranks * torch.get_num_threads() / usable_cores()
    seconds = []
    for _ in range(8):  # the same number on every rank
        before, computed = time.perf_counter(), time.process_time()
        for index in range(micro_batches):
            sends = index == micro_batches - 1 or optimizer is None
            with nullcontext() if sends else parallel.no_sync(model):
                logits = model(causal_batch(ids)).logits.float().flatten(0, 1)
                torch.autograd.backward(F.cross_entropy(logits, ids.flatten(), reduction="sum"))
        taken, computed = time.perf_counter() - before, time.process_time() - computed
        seconds.append(taken if crowd <= 1 else min(taken, crowd * computed))
        if optimizer is not None:
            optimizer.step()
        model.zero_grad(set_to_none=True)
    return statistics.median(seconds[1:])


def _sizes() -> list[tuple[int, int]]:
    """Units and parameters of the two shapes."""
    return [(len(found.units), found.total) for found in map(inventory_of, SHAPES)]


def _rates(seconds: list[float]) -> Rates:
    """Solve units x a + parameters x b = seconds for the two shapes; neither is below nothing."""
    (units, few), (fewer, many) = _sizes()
    determinant = units * many - fewer * few
    unit = (seconds[0] * many - seconds[1] * few) / determinant
    element = (units * seconds[1] - fewer * seconds[0]) / determinant
    if element < 0:
        return seconds[0] / units, 0.0
    if unit < 0:
        return 0.0, seconds[1] / many
    return unit, element
