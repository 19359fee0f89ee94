"""The peers of modules that are cut over a tensor-parallel group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.nn.init import stable_seed
from mainspring.parallel.tensor import operators
from mainspring.parallel.tensor.operators import Line


class Ranks:
    """What `mainspring.nn.peers` asks for, over a group of ranks.

    Args:
        line: the ranks.
        tokens: cut the stream over tokens, too.
    """

    def __init__(self, line: Line, tokens: bool) -> None:
        self.line = line
        self.index, self.size = line.index, line.size
        self.token_parts = line.size if tokens else 1

    def enter(self, x: Tensor) -> Tensor:
        """From the stream to a region, in the dtype of its maps: half the traffic under autocast."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        if self.token_parts > 1:
            return _apply(operators.Gather, self.line, x)
        return self.share(x)[0]

    def leave(self, y: Tensor) -> Tensor:
        """From a region to the stream."""
        return _apply(operators.Scatter if self.token_parts > 1 else operators.Total, self.line, y)

    def total(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        return _apply(operators.Total, self.line, x)

    def share(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The same tensors; their gradients are added up over ranks."""
        shared: tuple[Tensor, ...] = operators.Share.apply(self.line, *tensors)  # type: ignore[no-untyped-call]
        return shared

    def once(self, x: Tensor) -> Tensor:
        """The tensor on the first rank, else 0."""
        return _apply(operators.Once, self.line, x)

    def part(self, x: Tensor, dim: int) -> Tensor:
        """This rank's equal part of a dimension."""
        return x.chunk(self.size, dim)[self.index]

    def split(self, x: Tensor) -> Tensor:
        """Into the stream."""
        return _apply(operators.Split, self.line, x) if self.token_parts > 1 else x

    def join(self, x: Tensor) -> Tensor:
        """Out of the stream."""
        return _apply(operators.Join, self.line, x) if self.token_parts > 1 else x

    def drop(self, x: Tensor, rate: float) -> Tensor:
        """Dropout in the stream: the same on all ranks, unless they have different tokens."""
        if self.token_parts == 1:
            return F.dropout(x, rate)
        with self.apart(rate):
            return F.dropout(x, rate)

    @contextmanager
    def apart(self, rate: float) -> Iterator[None]:
        """A context of chance of this rank's own.

        Its seed is drawn from what is the same on all ranks, so that a recomputation, which starts from the
        same state of torch's generator, has the same chance.
        """
        if not rate:
            yield
            return
        seed = int(torch.randint(1 << 62, ()))
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(stable_seed(seed, self.index))
            yield

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        # A copy of a cut model is one of this rank's part of it; a process group cannot be copied.
        return self


def _apply(operator: type[torch.autograd.Function], line: Line, x: Tensor) -> Tensor:
    result: Tensor = operator.apply(line, x)  # type: ignore[no-untyped-call]
    return result
