"""From logits of where an answer begins and ends to the answer, over the windows of a context.

Devlin et al. 2019 (arXiv 1810.04805), sections 4.2 and 4.3: the best span is the one of greatest start + end
logit with the end not before the start; "there is none" is the span of the first token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mainspring.infer.answers import Answer
from mainspring.text.framing import Frame

CANDIDATES = 20
"""Spans of a window among which probabilities are shared out."""


class Window(NamedTuple):
    """A question beside a part of its context. T tokens."""

    frame: Frame
    logits: Tensor
    """Of beginning and ending at each token, fp32 [T, 2]."""


class _Span(NamedTuple):
    score: float
    start: int
    end: int


def best_answer(context: str, windows: Sequence[Window], *, no_answer: bool, most: int) -> Answer:
    """The best span of all windows.

    Args:
        context: the whole context.
        windows: its windows.
        no_answer: whether there being none is among the answers.
        most: tokens of an answer at most.
    """
    spans = sorted((s for w in windows for s in _spans(w, most)), key=lambda s: -s.score)
    found: dict[tuple[int, int], _Span] = {}
    for span in spans:  # windows overlap
        found.setdefault((span.start, span.end), span)
    # None of the windows may hold an answer.
    none = min((float(w.logits[0].sum()) for w in windows), default=0.0)
    best = next(iter(found.values()), None)
    candidates = [span.score for span in found.values()][:CANDIDATES] + ([none] if no_answer else [])
    if best is None or (no_answer and none > best.score):
        score = none if best is None else best.score
        return Answer("", -1, -1, score, none, _share(none, candidates or [none]))
    text = context[best.start : best.end]
    return Answer(text, best.start, best.end, best.score, none, _share(best.score, candidates))


def _spans(window: Window, most: int) -> list[_Span]:
    """The best spans of a window that lie in the context."""
    frame, logits = window
    inside = torch.tensor(
        [part == 1 and b > a for part, (a, b) in zip(frame.parts, frame.offsets, strict=True)]
    )
    if not bool(inside.any()):
        return []
    begin, end = logits.masked_fill(~inside[:, None], -torch.inf).unbind(-1)
    length = len(frame.ids)
    allowed = torch.ones(length, length, dtype=torch.bool).triu().tril(most - 1)
    scores = (begin[:, None] + end[None, :]).masked_fill(~allowed, -torch.inf).flatten()
    best = scores.topk(min(CANDIDATES, scores.numel()))
    return [
        _Span(value, frame.offsets[place // length][0], frame.offsets[place % length][1])
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        if value > -math.inf
    ]


def _share(score: float, candidates: Sequence[float]) -> float:
    top = max(candidates)
    return math.exp(score - top) / sum(math.exp(one - top) for one in candidates)
