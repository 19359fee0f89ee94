"""What a model's linear maps get to see: the mean of x x^T and the largest |x| over calibration text.

The model runs a layer at a time over all batches (`nn.part`), so that a layer can be changed before the next
one sees its outputs, and nothing but the stream between two layers is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.compress.linears import linears
from mainspring.data.batch import TokenBatch
from mainspring.nn.part import Carried, Part
from mainspring.nn.transformer import Transformer


@dataclass
class Seen:
    """Statistics of the inputs x [K] of a linear map."""

    hessian: Tensor
    """Sum of x x^T, fp64 [K, K]."""
    largest: Tensor
    """Largest |x| of each column, fp32 [K]."""
    count: int = 0
    """Inputs."""

    @classmethod
    def empty(cls, columns: int) -> Seen:
        """Of no inputs."""
        return cls(torch.zeros(columns, columns, dtype=torch.float64), torch.zeros(columns))

    def add(self, x: Tensor) -> None:
        """Take inputs [n, K] in."""
        x = x.detach().float().cpu()
        self.hessian += (x.T @ x).double()
        self.largest = torch.maximum(self.largest, x.abs().amax(0)) if len(x) else self.largest
        self.count += len(x)

    @property
    def mean(self) -> Tensor:
        """Mean of x x^T, fp64 [K, K]."""
        return self.hessian / max(self.count, 1)


@torch.no_grad()
def by_layer(
    model: Transformer,
    batches: Sequence[TokenBatch],
    change: Callable[[int, dict[str, Seen]], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Run a model of one stack layer by layer; `change` may alter a layer once its inputs have been seen.

    Args:
        model: in evaluation.
        batches: calibration text, each [B, T].
        change: is given a layer's number and, by the names of its linear maps in the model, what they saw.
            Later layers see what the layer gives after it.
        progress: is told layers done and their total.
    """
    total = len(model.blocks())
    carried: list[Carried | None] = [None] * len(batches)
    names = {id(module): name for name, module in linears(model).items()}
    for number, block in enumerate(model.blocks()):
        part = Part(number, number + 1, total)
        seen: dict[str, Seen] = {}
        for batch, before in zip(batches, carried, strict=True):
            with _watching(block, names, seen, batch):
                _run(model, batch, part, before)
        change(number, seen)
        if number + 1 < total:
            carried = [_run(model, b, part, c) for b, c in zip(batches, carried, strict=True)]
        progress(number + 1, total)


def _run(model: Transformer, batch: TokenBatch, part: Part, carried: Carried | None) -> Carried | None:
    nowhere = torch.zeros_like(batch.ids, dtype=torch.bool)
    given = model(batch, select=nowhere, part=part, carried=carried)
    return given if isinstance(given, Carried) else None


@contextmanager
def _watching(
    block: nn.Module, names: dict[int, str], seen: dict[str, Seen], batch: TokenBatch
) -> Iterator[None]:
    """Inside, inputs of the block's linear maps are taken in, without those of padding."""

    def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
        x: Tensor = args[0]
        if batch.valid is not None and x.shape[:-1] == batch.valid.shape:
            x = x[batch.valid]
        name = names[id(module)]
        seen.setdefault(name, Seen.empty(x.shape[-1])).add(x.reshape(-1, x.shape[-1]))

    handles = [m.register_forward_pre_hook(watch) for m in block.modules() if id(m) in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
