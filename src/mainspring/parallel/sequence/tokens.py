"""A batch cut over tokens, and what ranks must know of one another's tokens to tell who sees whom.

Every token carries its data (`TokenBatch`), so a share of a row is a batch like any other; masks, positions
and distances follow from the data of both sides, wherever tokens lie.

Legend: B rows, T tokens, s ranks, t = T / s tokens here.
"""

from __future__ import annotations

import torch

from mainspring import comm
from mainspring.data.batch import TokenBatch, lengthened
from mainspring.parallel.tensor.operators import Line

_NEEDED = ("ids", "pos", "rank", "probe", "doc", "valid")
"""What masks and positions are made of."""


def split_tokens(batch: TokenBatch, index: int, size: int, *, zigzag: bool = False) -> TokenBatch:
    """The share of rank `index` of `size` of every row of a batch [B, T]: [B, ceil(T / size)].

    Where T is no multiple of `size` the rows are lengthened by padding. The labels go along, so they must
    already stand at the tokens that predict them.

    With `zigzag` a row is cut into 2 size pieces, of which a rank takes number `index` and, from the end,
    number `index` again: of rows in causal order every rank then has as much to attend to, in a ring.

    >>> from mainspring.data.batch import causal_batch
    >>> split_tokens(causal_batch(torch.tensor([[5, 6, 7]])), 1, 2).valid.tolist()
    [[True, False]]
    >>> split_tokens(causal_batch(torch.arange(8)[None]), 1, 2, zigzag=True).ids.tolist()
    [[2, 3, 4, 5]]
    """
    length = batch.ids.shape[1]
    more = -length % (2 * size if zigzag else size)
    if more:
        batch = lengthened(batch, more)
    if not zigzag:
        share = (length + more) // size
        here = slice(index * share, (index + 1) * share)
        return TokenBatch._make(None if t is None else t[:, here] for t in batch)
    pieces = [None if t is None else t.chunk(2 * size, dim=1) for t in batch]
    return TokenBatch._make(
        None if p is None else torch.cat([p[index], p[2 * size - 1 - index]], dim=1) for p in pieces
    )


def join_tokens(batch: TokenBatch, line: Line) -> list[TokenBatch]:
    """The shares [B, t] of all ranks, in their order, without types, languages and labels."""
    data = {name: t for name, t in batch._asdict().items() if name in _NEEDED and t is not None}
    mine = torch.stack([t.to(torch.int64) for t in data.values()])
    every = torch.empty((line.size, *mine.shape), dtype=torch.int64, device=mine.device)
    for work in comm.all_gather(
        every.view(-1), mine.view(-1), name="token data", group=line.group, counter=line.counter
    ):
        work.wait()
    kinds = [t.dtype for t in data.values()]
    return [
        TokenBatch(**{n: t.to(kind) for n, t, kind in zip(data, share, kinds, strict=True)})
        for share in every.unbind()
    ]


def concatenated(shares: list[TokenBatch]) -> TokenBatch:
    """Shares [B, t] as one batch [B, T]."""
    return TokenBatch._make(
        None if field[0] is None else torch.cat(field, 1) for field in zip(*shares, strict=True)
    )
