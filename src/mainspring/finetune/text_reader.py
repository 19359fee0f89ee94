"""A reader from text to text: questions beside texts in, spans of characters out.

What does not fit into a window is read in several that overlap (Devlin et al. 2019, 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mainspring.data.batch import pad_rows
from mainspring.errors import UsageError
from mainspring.finetune.reader import Reader, Reading, States
from mainspring.text.tokenizer import Tokenizer

MOST_QUESTION = 64
"""Tokens that are read of a question."""
MOST_TEXT = 192
"""Tokens of a window of a text."""
STRIDE = 96
"""Tokens from one window to the next."""
MOST_ANSWER = 24
"""Tokens of an answer."""
_BATCH_TOKENS = 4096
_SPANS = 5
_PAIRS = 256


class Tokens(NamedTuple):
    """A row for a reader."""

    ids: list[int]
    """With the marks of beginning and end."""
    offsets: list[tuple[int, int]]
    """Characters of each; (0, 0) of the marks."""


class FoundSpan(NamedTuple):
    """A stretch of a text that may be an answer."""

    start: int
    """First character."""
    stop: int
    """One past the last."""
    score: float
    """Logit of beginning plus logit of end, minus the same of there being no answer."""


class ReadText(NamedTuple):
    """What a reader says of a question and a text."""

    relevance: float
    """Logit that the text serves the question."""
    verdict: float
    """Logit that it says yes."""
    spans: tuple[FoundSpan, ...]
    """The likeliest answers, the best first."""
    offsets: NDArray[np.int64]
    """Characters of each token, [N, 2]."""
    highlights: NDArray[np.float32]
    """Logit of each token that it bears on the question, [N]."""


class TextReader:
    """A reader with its tokenizer."""

    def __init__(self, reader: Reader, tokenizer: Tokenizer) -> None:
        """Take a reader.

        Raises:
            UsageError: the tokenizer marks neither beginnings nor ends.
        """
        if tokenizer.cls is None or tokenizer.sep is None:
            raise UsageError("a reader's tokenizer needs [CLS] and [SEP]; this one is not an encoder's")
        self.reader, self._tokenizer = reader, tokenizer
        self._cls, self._sep, self.pad = tokenizer.cls, tokenizer.sep, tokenizer.pad or 0

    def tokens(self, text: str, most: int) -> list[Tokens]:
        """The windows of a text; one of nothing where it is empty.

        Args:
            text: any text.
            most: tokens of a window, its marks left out.
        """
        ids, offsets = self._tokenizer.encode_offsets(text)
        starts = range(0, max(1, len(ids) - (most - STRIDE) if len(ids) > most else 1), STRIDE)
        return [
            Tokens([self._cls, *ids[at : at + most], self._sep], [(0, 0), *offsets[at : at + most], (0, 0)])
            for at in starts
        ]

    def question(self, text: str) -> Tokens:
        """A question, cut off where it is too long."""
        return self.tokens(text, MOST_QUESTION)[0]

    @torch.inference_mode()
    def read(self, pairs: Sequence[tuple[str, str]]) -> list[ReadText]:
        """Read each question beside its text; what several pairs share passes the first layers once."""
        found: list[ReadText] = []
        for at in range(0, len(pairs), _PAIRS):
            found += self._read_some(pairs[at : at + _PAIRS])
        return found

    def _read_some(self, pairs: Sequence[tuple[str, str]]) -> list[ReadText]:
        questions = {question: self.question(question) for question, _ in pairs}
        texts = {text: self.tokens(text, MOST_TEXT) for _, text in pairs}
        states = self._apart([*questions.values(), *(w for windows in texts.values() for w in windows)])
        rows = [(i, questions[q], window) for i, (q, text) in enumerate(pairs) for window in texts[text]]
        found: list[list[tuple[Tokens, Reading]]] = [[] for _ in pairs]
        for batch in batches([len(q.ids) + len(w.ids) for _, q, w in rows]):
            chosen = [rows[b] for b in batch]
            reading = self.reader(
                _padded([states[tuple(q.ids)] for _, q, _ in chosen]),
                _padded([states[tuple(w.ids)] for _, _, w in chosen]),
            )
            for at, (i, _, window) in enumerate(chosen):
                found[i].append((window, Reading(*(part[at] for part in reading))))
        return [_joined(parts) for parts in found]

    def _apart(self, rows: Sequence[Tokens]) -> dict[tuple[int, ...], Tensor]:
        """What the first layers give of each distinct row, [T, D]."""
        distinct = list(dict.fromkeys(tuple(row.ids) for row in rows))
        found: dict[tuple[int, ...], Tensor] = {}
        for batch in batches([len(ids) for ids in distinct]):
            ids, valid = pad_rows([distinct[i] for i in batch], self.pad)
            x = self.reader.apart(ids, valid).x
            found |= {distinct[i]: x[at, : len(distinct[i])] for at, i in enumerate(batch)}
        return found


def _padded(rows: Sequence[Tensor]) -> States:
    valid = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.bool)
    for at, row in enumerate(rows):
        valid[at, : len(row)] = True
    return States(torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), valid)


def batches(lengths: Sequence[int], most: int = _BATCH_TOKENS) -> Iterator[list[int]]:
    """Numbers of rows of like length together; with padding a batch has `most` tokens at most."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _joined(windows: Sequence[tuple[Tokens, Reading]]) -> ReadText:
    """What several windows of one text say: the most relevant one's verdict, the best spans of all."""
    windows = sorted(windows, key=lambda pair: pair[0].offsets[1][0] if len(pair[0].ids) > 2 else 0)
    most = max(range(len(windows)), key=lambda i: float(windows[i][1].relevance))
    spans = sorted((s for pair in windows for s in _spans(*pair)), key=lambda s: -s.score)
    kept: dict[tuple[int, int], FoundSpan] = {}
    for span in spans:  # windows overlap
        kept.setdefault((span.start, span.stop), span)
    marks: dict[tuple[int, int], float] = {}
    for tokens, reading in windows:
        values = reading.highlights[1 : len(tokens.ids) - 1].tolist()
        for place, value in zip(tokens.offsets[1:-1], values, strict=True):
            marks[place] = max(value, marks.get(place, -np.inf))
    places = sorted(marks)
    return ReadText(
        float(windows[most][1].relevance),
        float(windows[most][1].verdict),
        tuple(kept.values())[:_SPANS],
        np.asarray(places, dtype=np.int64).reshape(-1, 2),
        np.asarray([marks[p] for p in places], dtype=np.float32),
    )


def _spans(tokens: Tokens, reading: Reading) -> list[FoundSpan]:
    """The best spans of a window."""
    count = len(tokens.ids) - 2
    if count <= 0:
        return []
    none = float(reading.spans[0].sum())
    begin, end = reading.spans[2 : 2 + count].unbind(-1)  # after the place of none and the first mark
    allowed = torch.ones(count, count, dtype=torch.bool).triu().tril(MOST_ANSWER - 1)
    scores = (begin[:, None] + end[None, :]).masked_fill(~allowed, -torch.inf).flatten()
    best = scores.topk(min(_SPANS, count))
    offsets = tokens.offsets[1:-1]
    return [
        FoundSpan(offsets[place // count][0], offsets[place % count][1], value - none)
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        if value > -torch.inf
    ]
