"""What crosses between regions of cut maps and the stream, forward and backward.

Each operator's backward is another's forward: Shoeybi et al. 2019 (arXiv 1909.08053), figure 3 (f and g), and
Korthikanti et al. 2022 (arXiv 2205.05198), figure 5 (g and its conjugate, over tokens).

    operator    forward              backward             between
    share       as it is             sum over ranks       the same on all ranks -> a region
    total       sum over ranks       as it is             a region -> the same on all ranks
    once        on one rank, else 0  as it is             the same on all ranks -> a summand in a region
    gather      all tokens           sum, own tokens      a stream of own tokens -> a region
    scatter     sum, own tokens      all tokens           a region -> a stream of own tokens
    split       own tokens           all tokens           the same on all ranks -> a stream of own tokens
    join        all tokens           own tokens           a stream of own tokens -> the same on all ranks
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring import comm


@dataclass(frozen=True)
class Line:
    """The ranks of a tensor-parallel group, as one of them sees them."""

    group: dist.ProcessGroup
    index: int
    """Which of them this one is."""
    size: int
    counter: comm.Counter
    """Told all traffic."""
    name: str
    """Under this name."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in new memory."""
        total = x.detach().clone(memory_format=torch.contiguous_format)
        comm.all_reduce(total, name=self.name, group=self.group, counter=self.counter)
        return total

    def all_tokens(self, x: Tensor) -> Tensor:
        """Tokens of all ranks, in their order: [B, T / N, ...] -> [B, T, ...]."""
        whole = x.new_empty(self.size, *x.shape)
        for work in comm.all_gather(
            whole.view(-1), x.contiguous().view(-1), name=self.name, group=self.group, counter=self.counter
        ):
            work.wait()
        return whole.transpose(0, 1).reshape(x.shape[0], -1, *x.shape[2:])

    def own_tokens(self, x: Tensor) -> Tensor:
        """This rank's tokens: [B, T, ...] -> [B, T / N, ...]."""
        return x.chunk(self.size, dim=1)[self.index].contiguous()

    def sum_own_tokens(self, x: Tensor) -> Tensor:
        """The sum over ranks, of this rank's tokens: [B, T, ...] -> [B, T / N, ...]."""
        parts = x.view(x.shape[0], self.size, -1, *x.shape[2:]).transpose(0, 1).contiguous()
        own = torch.empty_like(parts[0])
        comm.reduce_scatter(
            own.view(-1), parts.view(-1), name=self.name, group=self.group, counter=self.counter
        ).wait()
        return own


class Share(torch.autograd.Function):
    """See the module's table. Gradients of several tensors travel together."""

    @staticmethod
    def forward(ctx: Any, line: Line, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.line = line
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if len(grads) == 1:
            return None, ctx.line.sum(grads[0])
        together = ctx.line.sum(torch.cat([grad.flatten() for grad in grads]))
        parts = together.split([grad.numel() for grad in grads])
        return None, *(part.view(grad.shape) for part, grad in zip(parts, grads, strict=True))


class Total(torch.autograd.Function):
    """See the module's table."""

    @staticmethod
    def forward(ctx: Any, line: Line, x: Tensor) -> Tensor:
        return line.sum(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class Once(torch.autograd.Function):
    """See the module's table."""

    @staticmethod
    def forward(ctx: Any, line: Line, x: Tensor) -> Tensor:
        return x.view_as(x) if line.index == 0 else torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class Gather(torch.autograd.Function):
    """See the module's table."""

    @staticmethod
    def forward(ctx: Any, line: Line, x: Tensor) -> Tensor:
        ctx.line = line
        return line.all_tokens(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.line.sum_own_tokens(grad.contiguous())


class Scatter(torch.autograd.Function):
    """See the module's table."""

    @staticmethod
    def forward(ctx: Any, line: Line, x: Tensor) -> Tensor:
        ctx.line = line
        return line.sum_own_tokens(x.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.line.all_tokens(grad)


class Split(torch.autograd.Function):
    """See the module's table."""

    @staticmethod
    def forward(ctx: Any, line: Line, x: Tensor) -> Tensor:
        ctx.line = line
        return line.own_tokens(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.line.all_tokens(grad)


class Join(torch.autograd.Function):
    """See the module's table."""

    @staticmethod
    def forward(ctx: Any, line: Line, x: Tensor) -> Tensor:
        ctx.line = line
        return line.all_tokens(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.line.own_tokens(grad)
