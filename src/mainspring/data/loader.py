"""Rows of tokens as batches, for any slice of the global order.

A row of T inputs is T+1 consecutive tokens of a stream: each input's label is the token after it. At the last
token of a document, its separator, there is no label, because the next token belongs to another text: the
separator is predicted from the last word, and nothing is predicted across it. Documents number from 0 in each
row and restart positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mainspring.data.batch import IGNORE, TokenBatch, causal_batch
from mainspring.data.dataset import TokenData, TokenStream, Window
from mainspring.data.permute import key_of
from mainspring.data.sampler import Mixture, samples
from mainspring.errors import DataError


def rows(data: TokenData, mixture: Mixture, seed: int, seq_len: int, start: int, stop: int) -> TokenBatch:
    """Rows start .. stop-1 of the global order of training, [stop-start, seq_len].

    Args:
        data: opened token data.
        mixture: from `mixture_of` with the same `seq_len`.
        seed: of the order.
        seq_len: tokens in a row.
        start, stop: global indices; a rank takes its own slice.
    """
    chosen, places = samples(seed, mixture, start, stop)
    wanted = [(mixture.names[int(c)], int(row)) for c, row in zip(chosen, places, strict=True)]
    return text_batch(data, wanted, seq_len)


def text_batch(data: TokenData, wanted: Sequence[tuple[str, int]], seq_len: int) -> TokenBatch:
    """The named rows of training streams, (stream, row of it), as a batch [len(wanted), seq_len]."""
    streams = data.split("train")
    windows = [streams[name].window(row * seq_len, seq_len + 1) for name, row in wanted]
    return _batch(windows, seq_len, data.separator)


def row_generators(seed: int, start: int, stop: int) -> list[np.random.Generator]:
    """A random generator for each of the global rows start .. stop-1, whatever rank draws from it."""
    key = key_of("generators", seed)
    return [np.random.Generator(np.random.Philox(key=(key << 64) | index)) for index in range(start, stop)]


def holdout_count(data: TokenData, seq_len: int, *, split: str = "holdout") -> int:
    """Rows that `holdout_batch` knows: all tokens of a split, the last row of each stream may be partly
    empty."""
    return sum(_row_count(stream, seq_len) for stream in data.split(split).values())


def holdout_batch(
    data: TokenData, seq_len: int, start: int, stop: int, *, split: str = "holdout"
) -> TokenBatch:
    """Rows start .. stop-1 of the held-out text in its own order, [stop-start, seq_len].

    Each stream is cut into rows one after another; what is left at its end is a row with padding (`valid`
    False).

    Raises:
        DataError: there are no such rows.
    """
    windows: list[Window] = []
    first = 0
    for stream in data.split(split).values():
        count = _row_count(stream, seq_len)
        for row in range(max(0, start - first), max(0, min(count, stop - first))):
            at = row * seq_len
            windows.append(stream.window(at, min(seq_len + 1, stream.tokens - at)))
        first += count
    if not 0 <= start < stop <= first:
        raise DataError(
            f"rows {start}..{stop - 1} of the {split} text do not exist: it has {first} at "
            f"seq_len = {seq_len}"
        )
    return _batch(windows, seq_len, data.separator)


def holdout_rows(
    data: TokenData, seq_len: int, *, batch_rows: int = 8, split: str = "holdout"
) -> Iterator[TokenBatch]:
    """All held-out text in its own order, `batch_rows` rows at a time; every label occurs once."""
    total = holdout_count(data, seq_len, split=split)
    for start in range(0, total, batch_rows):
        yield holdout_batch(data, seq_len, start, min(total, start + batch_rows), split=split)


def _row_count(stream: TokenStream, seq_len: int) -> int:
    return -(-(stream.tokens - 1) // seq_len) if stream.tokens > 1 else 0


def _batch(windows: Sequence[Window], seq_len: int, pad: int) -> TokenBatch:
    ids: NDArray[np.int64] = np.full((len(windows), seq_len + 1), pad, dtype=np.int64)
    doc: NDArray[np.int64] = np.zeros((len(windows), seq_len + 1), dtype=np.int64)
    lengths = np.array([len(window.ids) for window in windows], dtype=np.int64)
    for i, window in enumerate(windows):
        ids[i, : lengths[i]] = window.ids
        doc[i, : lengths[i]] = window.doc
        doc[i, lengths[i] :] = window.doc[-1]
    place = np.arange(seq_len)
    labelled = (doc[:, 1:] == doc[:, :-1]) & (place + 1 < lengths[:, None])
    inputs = np.ascontiguousarray(doc[:, :-1])
    return causal_batch(
        torch.from_numpy(np.ascontiguousarray(ids[:, :-1])),
        doc=torch.from_numpy(inputs) if inputs.any() else None,
        valid=torch.from_numpy(place < lengths[:, None]) if (lengths < seq_len).any() else None,
        labels=torch.from_numpy(np.where(labelled, ids[:, 1:], IGNORE)),
    )
