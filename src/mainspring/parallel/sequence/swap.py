"""All-to-all with a gradient: a tensor cut along one dimension becomes one cut along another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mainspring import comm
from mainspring.parallel.sequence.tokens import Peers


def swap(x: Tensor, give: int, take: int, sizes: Sequence[int], peers: Peers, name: str) -> Tensor:
    """Give each rank its part of dimension `give`, and join what comes along dimension `take`.

    Args:
        x: all ranks' have the same length of dimension `take`.
        give: dimension whose parts go to the ranks.
        take: dimension along which what arrives is joined in rank order.
        sizes: lengths of the parts of `give`, by rank.
        peers: the ranks.
        name: what the traffic is for.
    """
    joined: Tensor = _Swap.apply(  # type: ignore[no-untyped-call]
        x, give, take, list(sizes), [x.shape[take]] * peers.size, peers, name
    )
    return joined


def swap_back(x: Tensor, give: int, take: int, sizes: Sequence[int], peers: Peers, name: str) -> Tensor:
    """Undo `swap(..., give, take, sizes, ...)`."""
    share = x.shape[take] // peers.size
    whole: Tensor = _Swap.apply(  # type: ignore[no-untyped-call]
        x, take, give, [share] * peers.size, list(sizes), peers, name
    )
    return whole


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, give: int, take: int, given: list[int], taken: list[int], peers: Peers, name: str
    ) -> Tensor:
        ctx.rest = (give, take, given, taken, peers, name)
        return _exchange(x, give, take, given, taken, peers, name)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        give, take, given, taken, peers, name = ctx.rest
        return _exchange(grad, take, give, taken, given, peers, name), *(None,) * 6


def _exchange(
    x: Tensor, give: int, take: int, given: list[int], taken: list[int], peers: Peers, name: str
) -> Tensor:
    outbox = [part.contiguous() for part in x.split_with_sizes(given, give)]
    inbox = []
    for length in taken:
        shape = list(x.shape)
        shape[give], shape[take] = given[peers.rank], length
        inbox.append(x.new_empty(shape))
    largest = max(given) * max(taken) * (x.numel() // max(1, x.shape[give] * x.shape[take]))
    comm.all_to_all(
        inbox, outbox, name=name, largest=largest, group=peers.group, counter=peers.counter
    ).wait()
    return torch.cat(inbox, take)
