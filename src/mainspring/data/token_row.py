"""One row of tokens with their data, in numpy: what the builders of objectives cut and join.

A builder takes rows apart (`rows_of`), lays out new ones, and puts them together (`collate`). Everything that
a mask or a position scheme reads is data of the tokens, so the layout is all that a builder has to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mainspring.data.batch import IGNORE, TokenBatch

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class TokenRow(NamedTuple):
    """T tokens; every array is [T]. The fields are those of `TokenBatch`; padding is not held."""

    ids: Ints
    pos: Ints
    rank: Ints
    probe: Bools
    type: Ints
    lang: Ints
    doc: Ints
    labels: Ints

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    def take(self, index: Ints | Bools | slice) -> TokenRow:
        """The tokens at an index, in its order."""
        return TokenRow._make(field[index] for field in self)

    def hide(self, where: Bools, replacements: Ints) -> TokenRow:
        """The row with other ids at `where`, bool [T], labelled there (and nowhere else) with what they were.

        Args:
            where: tokens to predict.
            replacements: ids to put there, [where.sum()].
        """
        ids = self.ids.copy()
        ids[where] = replacements
        return self._replace(ids=ids, labels=np.where(where, self.ids, IGNORE))


def token_row(
    ids: Sequence[int] | Ints,
    *,
    start: int = 0,
    rank: int | Ints = 0,
    probe: bool = False,
    type: int = 0,
    lang: int = 0,
    doc: int = 0,
) -> TokenRow:
    """A row of plain tokens at positions `start`, `start` + 1, ...; the rest is alike for all of them."""
    tokens = np.asarray(ids, dtype=np.int64)
    length = len(tokens)
    return TokenRow(
        tokens,
        np.arange(start, start + length),
        np.broadcast_to(np.asarray(rank, dtype=np.int64), (length,)),
        np.full(length, probe),
        np.full(length, type),
        np.full(length, lang),
        np.full(length, doc),
        np.full(length, IGNORE),
    )


def join(parts: Sequence[TokenRow]) -> TokenRow:
    """One part after the other; their data stay as they are."""
    return TokenRow._make(np.concatenate(fields) for fields in zip(*parts, strict=True))


def rows_of(batch: TokenBatch) -> list[TokenRow]:
    """The rows of a batch [B, T] without their padding."""
    shape = tuple(batch.ids.shape)

    def array(tensor: Tensor | None, missing: int) -> Ints:
        return np.full(shape, missing) if tensor is None else tensor.cpu().numpy()

    fields = (
        array(batch.ids, 0),
        array(batch.pos, 0),
        array(batch.rank, 0),
        array(batch.probe, 0).astype(bool),
        array(batch.type, 0),
        array(batch.lang, 0),
        array(batch.doc, 0),
        array(batch.labels, IGNORE),
    )
    valid = array(batch.valid, 1).astype(bool)
    return [TokenRow(*(field[row][valid[row]] for field in fields)) for row in range(shape[0])]


def collate(
    rows: Sequence[TokenRow],
    *,
    pad: int = 0,
    device: torch.device | str = "cpu",
    leads: Sequence[int] | None = None,
) -> TokenBatch:
    """Rows of different length as a batch, padded on the right; data that say nothing become None.

    Padding has the id `pad`, position 0 and no label.

    Args:
        rows: rows of tokens.
        pad: id of padding.
        device: where the batch goes.
        leads: how many tokens each row begins with that are padded among themselves, at running positions,
            so that what follows them begins in the same column of every row.
    """
    heads = [0] * len(rows) if leads is None else list(leads)
    lead = max(heads, default=0)
    width = lead + max((row.length - own for row, own in zip(rows, heads, strict=True)), default=0)
    blank = TokenRow(*(np.full((len(rows), width), value) for value in (pad, 0, 0, False, 0, 0, 0, IGNORE)))
    blank.pos[:, :lead] = np.arange(lead)
    valid = np.zeros((len(rows), width), bool)
    for index, (row, own) in enumerate(zip(rows, heads, strict=True)):
        places = np.r_[:own, lead : lead + row.length - own]
        valid[index, places] = True
        for field, values in zip(blank, row, strict=True):
            field[index, places] = values

    def tensor(array: Ints | Bools) -> Tensor:
        return torch.from_numpy(array).to(device)

    def said(array: Ints | Bools) -> Tensor | None:
        return tensor(array) if array.any() else None

    return TokenBatch(
        tensor(blank.ids),
        tensor(blank.pos),
        tensor(blank.rank),
        said(blank.probe),
        said(blank.type),
        said(blank.lang),
        said(blank.doc),
        None if valid.all() else tensor(valid),
        tensor(blank.labels),
    )
