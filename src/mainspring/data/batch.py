"""TokenBatch: every token carries its own data, so that one rule makes every attention mask.

Positions, ranks and documents are data, not indices: packed rows, shared positions, prefix and pseudo-masked
models are different data for the same network (spec/language-models.md, section 13.1).

Shapes: B rows, T tokens a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Label of a token that carries no loss."""


class TokenBatch(NamedTuple):
    """A batch of tokens and their data; every tensor is [B, T]. `None` stands for the value named."""

    ids: Tensor
    """Vocabulary index, int64."""
    pos: Tensor
    """Position within its document, int64."""
    rank: Tensor
    """Order in which tokens become visible, int64: 0 for what all may see, 0..T-1 for causal text."""
    probe: Tensor | None = None
    """True where a token asks for a prediction and is hidden from ordinary tokens (None: nowhere)."""
    type: Tensor | None = None
    """Segment, int64 (None: all 0)."""
    lang: Tensor | None = None
    """Language index, int64 (None: all 0)."""
    doc: Tensor | None = None
    """Document within the row, int64: tokens of different documents never see each other (None: one a
    row)."""
    valid: Tensor | None = None
    """False at padding (None: no padding)."""
    labels: Tensor | None = None
    """Vocabulary index to predict at this token, int64; `IGNORE` where there is none (None: nowhere)."""

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        moved = {k: t.to(device, non_blocking=True) for k, t in self._asdict().items() if t is not None}
        return TokenBatch(**moved)


def restart_at_documents(doc: Tensor) -> Tensor:
    """Positions that count from 0 in each run of equal document numbers. doc [B, T] -> [B, T]."""
    index = torch.arange(doc.shape[1], device=doc.device).expand_as(doc)
    starts = torch.ones_like(doc, dtype=torch.bool)
    starts[:, 1:] = doc[:, 1:] != doc[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def causal_batch(
    ids: Tensor, *, doc: Tensor | None = None, valid: Tensor | None = None, labels: Tensor | None = None
) -> TokenBatch:
    """Text in which a token sees itself and what precedes it. ids [B, T]; positions restart at each
    document."""
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    pos = index if doc is None else restart_at_documents(doc)
    return TokenBatch(ids, pos, rank=index, doc=doc, valid=valid, labels=labels)


def bidirectional_batch(
    ids: Tensor, *, doc: Tensor | None = None, valid: Tensor | None = None, labels: Tensor | None = None
) -> TokenBatch:
    """Text in which every token sees every other of its document. ids [B, T]."""
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    pos = index if doc is None else restart_at_documents(doc)
    return TokenBatch(ids, pos, rank=torch.zeros_like(ids), doc=doc, valid=valid, labels=labels)


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Right-pad rows of different length: ids [B, T] and valid [B, T]."""
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    valid = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
        valid[i, : len(row)] = True
    return ids, valid


def lengthened(batch: TokenBatch, more: int) -> TokenBatch:
    """Rows [B, T] with `more` tokens of padding at their ends: [B, T + more]."""
    if not more:
        return batch
    valid = torch.ones_like(batch.ids, dtype=torch.bool) if batch.valid is None else batch.valid
    longer = {name: F.pad(t, (0, more)) for name, t in batch._asdict().items() if t is not None}
    longer["valid"] = F.pad(valid, (0, more), value=False)
    longer["pos"] = _continued(batch.pos, more)
    longer["rank"] = torch.cat([batch.rank, batch.rank[:, -1:].expand(-1, more)], 1)
    if batch.doc is not None:
        longer["doc"] = torch.cat([batch.doc, batch.doc[:, -1:].expand(-1, more)], 1)
    if batch.labels is not None:
        longer["labels"] = F.pad(batch.labels, (0, more), value=IGNORE)
    return TokenBatch(**longer)


def _continued(pos: Tensor, more: int) -> Tensor:
    """Positions that count on, but not beyond the largest, which may be the last that the model has."""
    on = pos[:, -1:] + torch.arange(1, more + 1, device=pos.device)
    return torch.cat([pos, on.clamp(max=int(pos.max()))], 1)
