"""Documents to token arrays, in batches of bounded bytes, while others are read and written.

`tokenizers` spreads a batch over all cores and leaves Python's lock free meanwhile, but its memory grows with
the bytes of a batch (about 100 bytes a token) and one text is one core's work. Hence batches by bytes, long
texts in pieces, and a few batches in flight.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mainspring.text.tokenizer import Tokenizer

BATCH = 1 << 20
"""Characters in a batch, about."""
PIECES = 1 << 13
"""Pieces in a batch, at most."""
PIECE = 1 << 15
"""Characters of a text that are encoded at a time."""
_THREADS = 2
"""One batch's ids become arrays, under Python's lock, while the library encodes the next."""
_FLIGHT = 3

_BREAK = re.compile(r"(?<=[^\W\d_])\s")
T = TypeVar("T")


class Encoded(NamedTuple, Generic[T]):
    """A text's ids with what came along."""

    item: T
    """Whatever was given beside the text."""
    ids: NDArray[Any]
    """Its ids, with no special tokens."""


def encode(
    texts: Iterable[tuple[T, str]], tokenizer: Tokenizer, dtype: np.dtype[Any]
) -> Iterator[Encoded[T]]:
    """Ids of each text, in order.

    A text longer than `PIECE` characters is encoded in pieces, each ended before the last white space that
    follows a letter in it. For byte-level BPE with GPT-2's pattern the ids are those of the whole text; other
    tokenizers may differ in the word at a cut. Without such a place a piece ends at `PIECE` characters.

    Args:
        texts: items with their text; read a few batches ahead.
        tokenizer: the vocabulary.
        dtype: of the arrays.
    """
    flight: deque[tuple[list[tuple[T, int]], Future[list[NDArray[Any]]]]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="encode") as pool:
        for items, pieces in _batches(texts):
            flight.append((items, pool.submit(_arrays, tokenizer, pieces, dtype)))
            if len(flight) > _FLIGHT:
                yield from _assemble(*flight.popleft())
        while flight:
            yield from _assemble(*flight.popleft())


def cut(text: str, limit: int = PIECE) -> list[str]:
    """Parts of a text of at most `limit` characters, cut before white space that follows a letter."""
    parts: list[str] = []
    start = 0
    while len(text) - start > limit:
        # Look for the last fitting place in the last part of the piece, else in all of it.
        end = start + limit
        place = _last_break(text, end - limit // 16, end) or _last_break(text, start + 1, end) or end
        parts.append(text[start:place])
        start = place
    parts.append(text[start:])
    return parts


def _last_break(text: str, start: int, end: int) -> int | None:
    place = None
    for match in _BREAK.finditer(text, max(1, start), end):
        place = match.start()
    return place


def _batches(texts: Iterable[tuple[T, str]]) -> Iterator[tuple[list[tuple[T, int]], list[str]]]:
    items: list[tuple[T, int]] = []
    pieces: list[str] = []
    size = 0
    for item, text in texts:
        parts = cut(text) if len(text) > PIECE else [text]
        items.append((item, len(parts)))
        pieces.extend(parts)
        size += len(text) if text.isascii() else 3 * len(text)
        if size >= BATCH or len(pieces) >= PIECES:
            yield items, pieces
            items, pieces, size = [], [], 0
    if items:
        yield items, pieces


def _arrays(tokenizer: Tokenizer, pieces: list[str], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
    return [np.array(ids, dtype=dtype) for ids in tokenizer.encode_batch(pieces)]


def _assemble(items: list[tuple[T, int]], future: Future[list[NDArray[Any]]]) -> Iterator[Encoded[T]]:
    arrays = future.result()
    at = 0
    for item, count in items:
        part = arrays[at : at + count]
        yield Encoded(item, part[0] if count == 1 else np.concatenate(part))
        at += count
