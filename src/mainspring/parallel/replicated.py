"""The data ranks as optimizers see them that join what they computed themselves (`plan.communication`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mainspring import comm
from mainspring.comm.adasum import Adasum
from mainspring.comm.compressed import CompressedMean, even_chunks
from mainspring.errors import PlanError
from mainspring.nn.span import cut_of
from mainspring.numerics.signs import Scale
from mainspring.optim.replicas import Replicas, shaped
from mainspring.parallel.mesh import Axes
from mainspring.parallel.pieces import piece_join
from mainspring.parallel.strategy import Strategy, strategy_of
from mainspring.parallel.zero.engine import Flat
from mainspring.parallel.zero.unit import Row


def replicas(model: nn.Module) -> Replicas | None:
    """What `optim.build` needs where ranks do not simply sum up gradients; None where they do.

    Every rank calls it, after `apply` and `materialize`.

    Raises:
        PlanError: a parameter is not in fp32, or tensor ranks hold shards that do not match.
    """
    strategy = strategy_of(model)
    if strategy.plan.communication == "exact":
        return None
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise PlanError(
                f'plan.communication = "{strategy.plan.communication}" works on fp32 parameters and {name} '
                f"is {str(parameter.dtype).removeprefix('torch.')}: keep the model in fp32 and compute in 16 "
                'bits by precision = "bf16"'
            )
    return Sharded(model, strategy) if isinstance(strategy, Flat) else Whole(model, strategy)


class _Common:
    """What both ways of laying the buffer out share."""

    def __init__(self, model: nn.Module, strategy: Strategy) -> None:
        self.communication = strategy.plan.communication
        self._strategy, self._group = strategy, strategy.group
        self.size = 1 if self._group is None else dist.get_world_size(self._group)
        self._join = piece_join(model)
        self._places: dict[nn.Parameter, slice] = {}

    def follow(self, reduces: Callable[[], bool]) -> None:
        """See `optim.replicas.Replicas`, here and below."""
        self._strategy.reduces = reduces

    def place(self, parameter: nn.Parameter) -> slice:
        return self._places[parameter]

    def average(self, tensors: Sequence[Tensor], *, name: str) -> None:
        if self._group is not None:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            comm.all_reduce(flat, name=name, op="mean", group=self._group, counter=self._strategy.counter)
            for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def join(self, parameters: Sequence[nn.Parameter], rows: Tensor, op: Literal["sum", "max"]) -> None:
        self._join(parameters, rows, op)

    def _compressed(self, chunks: list[list[int]], scale: Scale) -> CompressedMean:
        device = next(iter(self._places)).device
        return CompressedMean(
            chunks, group=self._group, scale=scale, device=device, counter=self._strategy.counter
        )

    @property
    def _factor(self) -> float:
        """What a gradient here is multiplied by, so that the mean over ranks is that of the whole batch."""
        return float(self.size) if self._strategy.local and self._strategy.reduce == "sum" else 1.0


class Whole(_Common):
    """Every rank has all parameters (ZeRO 0, or one process).

    Parameters that tensor ranks hold alike come first and are cut at the same places on all of them, so that
    they get the same scales and stay alike.
    """

    def __init__(self, model: nn.Module, strategy: Strategy) -> None:
        super().__init__(model, strategy)
        trained = list(dict.fromkeys(p for p in model.parameters() if p.requires_grad))
        self._parameters = sorted(trained, key=lambda p: cut_of(p) is not None)
        start = 0
        for parameter in self._parameters:
            self._places[parameter] = slice(start, start + parameter.numel())
            start += parameter.numel()
        self.total = start
        self.own = slice(0, start)
        self._each = -(-_largest(start, strategy.axes, strategy) // self.size)
        self._parts: tuple[Tensor, list[Tensor]] = torch.empty(0), []
        """The buffer that gradients were last added to, and its part of each parameter."""

    def add_gradients(self, out: Tensor, keep: float, share: float) -> None:
        _keep(out, keep)
        if self._parts[0] is not out:
            self._parts = out, [shaped(out[self._places[p]], p) for p in self._parameters]
        pairs = zip(self._parts[1], self._parameters, strict=True)
        found = [(part, parameter.grad) for part, parameter in pairs if parameter.grad is not None]
        if found:
            parts, gradients = zip(*found, strict=True)
            torch._foreach_add_(parts, gradients, alpha=share * self._factor)

    def compressed(self, *, whole: bool = False, scale: Scale = "l1") -> CompressedMean:
        sizes = [parameter.numel() for parameter in self._parameters]
        if whole:
            sizes = _united(sizes, [cut_of(parameter) is not None for parameter in self._parameters])
        return self._compressed(even_chunks(sizes, self.size, self._each), scale)

    def gather(self, own: Tensor) -> Tensor:
        return own

    def adasum(self, buffer: Tensor) -> None:
        layers = [parameter.numel() for parameter in self._parameters]
        Adasum(layers, group=self._group, counter=self._strategy.counter)(buffer)


class Sharded(_Common):
    """Every rank has its shards (ZeRO 1), which are its chunk of the buffer."""

    def __init__(self, model: nn.Module, strategy: Flat) -> None:
        super().__init__(model, strategy)
        self._engine = strategy
        self._rows: list[tuple[Row, slice]] = []
        start = 0
        for row in strategy.trainable:
            part = row.layout.part
            self._rows.append((row, slice(start, start + part)))
            for piece, place in zip(row.shard.pieces, row.shard.places, strict=True):
                self._places[piece] = slice(start + place.start, start + place.stop)
            start += part
        self.total = start * self.size
        self.own = slice(strategy.rank * start, (strategy.rank + 1) * start)
        if _largest(start, strategy.axes, strategy) != -_largest(-start, strategy.axes, strategy):
            raise PlanError(
                'plan.communication = "compressed" with zero = 1 needs tensor ranks to hold equally much, '
                f"and this one's shard of {start:,} elements is not as long as another's (a vocabulary that "
                f"{strategy.plan.tensor} does not divide?); set zero = 0, or fill the vocabulary up"
            )

    def add_gradients(self, out: Tensor, keep: float, share: float) -> None:
        _keep(out, keep)
        table = out.view(self.size, -1)
        for row, place in self._rows:
            total = self._engine.own_gradient(row)
            if total is not None:
                table[:, place].add_(total.view(self.size, -1), alpha=share * self._factor)

    def compressed(self, *, whole: bool = False, scale: Scale = "l1") -> CompressedMean:
        chunks = []
        for rank in range(self.size):
            runs: list[int] = []
            for row, _ in self._rows:
                layout = row.layout
                sizes = [layout.span(index, rank).numel for index in range(len(layout.shapes))]
                # The padding is 0 and stays so, in a run of its own.
                runs += _united(sizes, [slot.cut is not None for slot in row.slots]) if whole else sizes
                runs.append(layout.part - sum(sizes))
            chunks.append(runs)
        return self._compressed(chunks, scale)

    def gather(self, own: Tensor) -> Tensor:
        whole = torch.empty(self.total, dtype=own.dtype, device=own.device)
        for work in comm.all_gather(
            whole, own.contiguous(), name="states", group=self._group, counter=self._strategy.counter
        ):
            work.wait()
        return whole

    def adasum(self, buffer: Tensor) -> None:
        raise AssertionError("plans refuse Adasum on shards")


def _united(sizes: Sequence[int], cut: Sequence[bool]) -> list[int]:
    """Runs with one scale: of neighbours, but what tensor ranks hold alike apart from what is cut among them,
    whose lengths differ from rank to rank."""
    pairs = groupby(zip(sizes, cut, strict=True), key=lambda pair: pair[1])
    return [sum(size for size, _ in same) for _, same in pairs]


def _keep(out: Tensor, share: float) -> None:
    """Multiply by a share; by 0 whatever is there."""
    out.mul_(share) if share else out.zero_()


def _largest(number: int, axes: Axes | None, strategy: Strategy) -> int:
    """The largest of what tensor ranks say."""
    group = None if axes is None else axes.group("tensor")
    if group is None:
        return number
    word = torch.tensor([number])
    comm.all_reduce(word, name="sizes", op="max", group=group, counter=strategy.counter)
    return int(word)
