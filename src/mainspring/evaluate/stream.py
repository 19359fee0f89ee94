"""Token streams with document starts: what n-gram models are trained on and scored on.

The rows a network is scored on (`ids`, `labels`) are turned back into the text they were cut from, so that a
baseline answers for the same tokens with the whole document before each of them, and never sees another
document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.data.batch import IGNORE, TokenBatch

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Stream(NamedTuple):
    """Documents one after the other."""

    ids: Ints
    """[N] vocabulary indices."""
    starts: Bools
    """[N] True at the first token of each document."""

    @staticmethod
    def of_documents(documents: Iterable[Sequence[int]]) -> Stream:
        """Join documents; empty ones are left out.

        >>> Stream.of_documents([[5, 6], [7]]).starts.tolist()
        [True, False, True]
        """
        kept = [np.asarray(d, dtype=np.int64) for d in documents if len(d)]
        if not kept:
            return Stream(np.empty(0, np.int64), np.empty(0, np.bool_))
        starts = np.zeros(sum(len(d) for d in kept), dtype=np.bool_)
        starts[np.cumsum([0, *(len(d) for d in kept[:-1])])] = True
        return Stream(np.concatenate(kept), starts)


def labelled_stream(batches: Iterable[TokenBatch]) -> tuple[Stream, Bools]:
    """The stream that labelled causal rows were cut from, and which of its tokens are some row's label.

    Two neighbouring tokens belong together when the label of the first is the second; a row therefore goes on
    in the next one where the text does, and a new document starts where no label leads across.

    Returns:
        The stream [N], and `scored` [N]: True at tokens that a row asks to predict (each of them once).
    """
    parts: list[Ints] = []
    starts: list[Bools] = []
    scored: list[Bools] = []
    pending = IGNORE  # the label that awaits its token at the start of the next row
    for batch in batches:
        labels_BT = (
            np.full(tuple(batch.ids.shape), IGNORE, np.int64)
            if batch.labels is None
            else batch.labels.numpy()
        )
        for row, (ids, labels) in enumerate(zip(batch.ids.numpy(), labels_BT, strict=True)):
            if batch.valid is not None:
                keep = batch.valid[row].numpy()
                ids, labels = ids[keep], labels[keep]
            if not len(ids):
                continue
            before = np.concatenate([[pending], labels[:-1]])
            linked = before == ids
            dangling = np.flatnonzero((before != IGNORE) & ~linked)
            # A label that no token follows (the end of a source) is a token of its own.
            ids_all = np.insert(ids, dangling, before[dangling])
            link_all = np.insert(linked, dangling, np.ones(len(dangling), np.bool_))
            parts.append(ids_all.astype(np.int64))
            starts.append(~link_all)
            scored.append(link_all)
            pending = int(labels[-1])
    if pending != IGNORE:
        parts.append(np.array([pending], np.int64))
        starts.append(np.zeros(1, np.bool_))
        scored.append(np.ones(1, np.bool_))
    if not parts:
        return Stream.of_documents([]), np.empty(0, np.bool_)
    return Stream(np.concatenate(parts), np.concatenate(starts)), np.concatenate(scored)
