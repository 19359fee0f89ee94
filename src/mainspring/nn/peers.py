"""What modules that may be cut over ranks ask of those that have their other parts (tensor parallelism).

Shoeybi et al. 2019 (Megatron-LM, arXiv 1909.08053), section 3: between maps of which every rank has a part,
two communications suffice, one where activations enter and one where they leave. Between such regions runs
the stream of activations. It is the same on all ranks, or, with the sequence parallelism of Korthikanti et
al. 2022 (arXiv 2205.05198), section 4.2.2, each rank has some of the tokens of it.

A module declares which of its parameters are cut, and in which units (`Cuttable`), and calls its `peers`
where something enters or leaves. One process has all parts, and `ALONE` does nothing;
`mainspring.parallel.tensor` cuts parameters and sets other peers.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn


class Along(NamedTuple):
    """How a parameter is cut."""

    dim: int
    """Dimension that is cut."""
    units: int
    """Equal units of that dimension that stay whole: heads, columns of the inner width, tokens."""
    what: str
    """The units in words."""
    even: bool = True
    """Whether every rank has as many."""


class Peers(Protocol):
    """The ranks that have the other parts of a module."""

    index: int
    """Which of them this one is."""
    size: int
    """How many there are."""
    token_parts: int
    """Parts in which the stream's tokens are cut."""

    def enter(self, x: Tensor) -> Tensor:
        """From the stream [B, T, D] (or what part of its tokens is here) to a region of cut maps: whole."""
        ...

    def leave(self, y: Tensor) -> Tensor:
        """From such a region, where each rank has a part of a sum [B, T, D], to the stream."""
        ...

    def total(self, x: Tensor) -> Tensor:
        """The sum of what each rank has, the same on all; each has the whole gradient."""
        ...

    def share(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors that are the same on all ranks, for use in a region: their gradients are added up."""
        ...

    def once(self, x: Tensor) -> Tensor:
        """For a summand of what leaves: a tensor that is the same on all ranks, on one of them, and 0 on the
        others. Each has the whole gradient."""
        ...

    def part(self, x: Tensor, dim: int) -> Tensor:
        """This rank's equal part of a tensor."""
        ...

    def split(self, x: Tensor) -> Tensor:
        """Into the stream: what is the same on all ranks, [B, T, D]."""
        ...

    def join(self, x: Tensor) -> Tensor:
        """Out of the stream: the same on all ranks, [B, T, D]."""
        ...

    def drop(self, x: Tensor, rate: float) -> Tensor:
        """Dropout in the stream."""
        ...

    def apart(self, rate: float) -> AbstractContextManager[None]:
        """A context in which chance, if something has this rate, differs from rank to rank; outside, it is
        the same."""
        ...


@runtime_checkable
class Cuttable(Protocol):
    """A module with parameters that can be cut."""

    peers: Peers

    @property
    def cuts(self) -> Mapping[str, Along]:
        """How each of them is cut, by its name in the module. Names of parameters that it lacks are legal."""
        ...


@runtime_checkable
class OnStream(Protocol):
    """A module some of whose parts work on the stream, token by token, with parameters that are not cut."""

    def on_stream(self) -> list[nn.Module]:
        """These parts."""
        ...


class Alone:
    """One process: everything is here."""

    index = 0
    size = 1
    token_parts = 1

    def enter(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def leave(self, y: Tensor) -> Tensor:
        """The same."""
        return y

    def total(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def share(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return tensors

    def once(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def part(self, x: Tensor, dim: int) -> Tensor:
        """The same."""
        return x

    def split(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def join(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def drop(self, x: Tensor, rate: float) -> Tensor:
        """Dropout."""
        return F.dropout(x, rate)

    def apart(self, rate: float) -> AbstractContextManager[None]:
        """Nothing differs."""
        return nullcontext()


ALONE = Alone()
