"""Rows without padding: documents one after another in a single row, attending within themselves.

Everything but attention works token by token, so a packed row costs what its tokens cost. For attention,
queries, keys and values are laid out as padded documents [S, W] and back (`packed_rows`).

Legend: N tokens of the packed row, S documents, W tokens of the longest, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.nn.attention import Here, Look, SelfAttention, Sight
from mainspring.nn.disentangled import DisentangledAttention, DistanceVectors, Relative
from mainspring.nn.positions import Angles
from mainspring.nn.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Slots:
    """Where a packed row's tokens stand as padded documents."""

    place: Tensor
    """Index of each token in the flat [S * W], int64 [N]."""
    documents: int
    width: int

    @classmethod
    def of(cls, doc: Tensor) -> Slots:
        """From document numbers [N] that rise by one from 0."""
        lengths = torch.bincount(doc)
        starts = lengths.cumsum(0) - lengths
        within = torch.arange(doc.numel(), device=doc.device) - starts[doc]
        width = int(lengths.max())
        return cls(doc * width + within, lengths.numel(), width)

    def spread(self, x: Tensor) -> Tensor:
        """[N, ...] -> [S, W, ...], zeros at padding."""
        flat = x.new_zeros(self.documents * self.width, *x.shape[1:])
        return flat.index_copy_(0, self.place, x).view(self.documents, self.width, *x.shape[1:])

    def gather(self, x: Tensor) -> Tensor:
        """[S, W, ...] -> [N, ...]."""
        return x.flatten(0, 1).index_select(0, self.place)

    @property
    def valid(self) -> Tensor:
        """bool [S, W]."""
        ones = torch.ones(self.place.numel(), dtype=torch.bool, device=self.place.device)
        return self.spread(ones)


@dataclass(frozen=True, slots=True)
class PackedSight(Sight):
    """Who sees whom among padded documents; angles are the packed row's."""

    slots: Slots | None = None


@dataclass(frozen=True, slots=True)
class PackedRelative(Relative):
    """Distances within padded documents."""

    slots: Slots | None = None


class Packed(Here):
    """Attention of a packed row, document by document."""

    def sight(self, look: Look, queries: TokenBatch, keys: TokenBatch | None = None) -> Sight:
        """What `look` says of the documents as rows."""
        if keys is not None or queries.doc is None or queries.ids.shape[0] != 1:
            return look(queries, keys)
        slots = Slots.of(queries.doc[0])
        if slots.documents * slots.width == slots.place.numel():
            valid = None  # all of one length
        else:
            valid = slots.valid
        rows = {
            name: slots.spread(t[0])
            for name, t in queries._asdict().items()
            if t is not None and name not in ("doc", "valid")
        }
        seen = look(TokenBatch(**rows, valid=valid), None)
        if seen.relative is not None:
            return Sight(relative=PackedRelative(**_fields(seen.relative), slots=slots))
        angles = seen.angles
        if angles is not None:  # of rows at the same positions there is one
            angles = Angles(*(slots.gather(t.expand(slots.documents, -1, -1, -1))[None] for t in angles))
        return PackedSight(**_fields(replace(seen, angles=angles)), slots=slots)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None, dropout: float,
        factor: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """q, k, v [1, H, N, E] -> [1, H, N, E]."""
        slots = sight.slots if isinstance(sight, PackedSight) else None
        if slots is None:
            return super().attend(q, k, v, sight, scale, dropout, factor)
        rows = [slots.spread(t[0].transpose(0, 1)).transpose(1, 2) for t in (q, k, v)]
        gate = None if factor is None else slots.spread(factor[0].transpose(0, 1)).transpose(1, 2)
        mixed = super().attend(rows[0], rows[1], rows[2], sight, scale, dropout, gate)
        return slots.gather(mixed.transpose(1, 2)).transpose(0, 1)[None]

    def by_distance(
        self, inner: DisentangledAttention, q: Tensor, k: Tensor, v: Tensor, vectors: DistanceVectors,
        relative: Relative,
    ) -> Tensor:  # fmt: skip
        """q, k, v [1, N, H, E] -> [1, N, H E]."""
        slots = relative.slots if isinstance(relative, PackedRelative) else None
        if slots is None:
            return super().by_distance(inner, q, k, v, vectors, relative)
        rows = [slots.spread(t[0]) for t in (q, k, v)]
        mixed = super().by_distance(inner, rows[0], rows[1], rows[2], vectors, relative)
        return slots.gather(mixed)[None]


def takes_packed(model: Transformer) -> bool:
    """Whether a model can take packed rows: a convolution over tokens sees beyond its document, experts have
    room by the size of a batch, and an encoder's output would have to be packed for its decoder."""
    return model.conv is None and model.encoder is None and model.config.experts is None


@contextmanager
def packed_rows(model: Transformer) -> Iterator[None]:
    """Within it, a model takes packed rows without padding: one row whose documents count up from 0."""
    spread = Packed()
    modules = [m for m in model.modules() if isinstance(m, Transformer | SelfAttention)]
    before = [module.spread for module in modules]
    for module in modules:
        module.spread = spread
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.spread = own


def _fields(one: Sight | Relative) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}
