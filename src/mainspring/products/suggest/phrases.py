"""Phrases for prefixes that nobody asked before: a causal model finishes the word and goes on, held to what
was typed.

The word under the cursor is taken back and written anew by the model, which may only choose tokens that spell
what was typed: so a tokenizer's own way of cutting words decides, not the place where typing stopped. A
narrow beam of a few tokens, with a cache.
"""

from __future__ import annotations

import bisect
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.infer.engine import Engine
from mainspring.infer.runner import CachedRunner
from mainspring.products.suggest.prefixes import Suggestion

_LAST = chr(0x10FFFF)
_ENDS = ("\n", "\r")


class _Beam(NamedTuple):
    """A continuation under way."""

    row: int
    """Its row in the runner."""
    text: str
    """What it wrote, the taken-back word included."""
    token: int
    """Its last token."""
    score: float
    """Sum of log probabilities."""
    length: int
    """Tokens written."""


class CausalPhrases:
    """A `PhraseModel` of any causal language model of this stack with a byte-level tokenizer."""

    def __init__(self, engine: Engine, *, beams: int = 4, tokens: int = 6, context: int = 24) -> None:
        """Prepare a model.

        Args:
            engine: the model; best a small one that was trained on titles and queries, one a line.
            beams: continuations followed at once.
            tokens: tokens that are written at most.
            context: tokens of what was typed that the model reads.

        Raises:
            UsageError: the model does not continue text, or its tokenizer has no token to begin from.
        """
        start = engine.tokenizer.eos
        if not engine.layout.continues or start is None:
            raise UsageError(f"{engine.name}: phrases need a causal model whose tokenizer has an end of text")
        self._engine, self._start = engine, start
        self._beams, self._tokens, self._context = beams, tokens, context
        spelt = [engine.tokenizer.decode([i]) for i in range(engine.vocabulary)]
        self._spelt = spelt
        usable = [(text.casefold(), i) for i, text in enumerate(spelt) if text and "\ufffd" not in text]
        self._sorted = sorted((text, i) for text, i in usable if not any(end in text for end in _ENDS))
        self._ends = [start, *(i for i, text in enumerate(spelt) if any(end in text for end in _ENDS))]
        self._starts_word = torch.tensor([text[:1].isspace() for text in spelt])
        self._starts_word[self._ends] = True
        writable = torch.full((engine.vocabulary,), float("-inf"))
        writable[[i for _, i in self._sorted]] = 0.0
        self._writable = writable
        self._lock = threading.Lock()

    def complete(self, typed: str, limit: int) -> list[Suggestion]:
        """The likeliest ways to finish the word and the phrase (see `PhraseModel.complete`)."""
        cut = len(typed) - len(typed.split(" ")[-1]) if not typed.endswith(" ") else len(typed.rstrip()) + 1
        before, need = typed[:cut].rstrip(), typed[cut:].casefold()
        if not typed.strip():
            return []
        ids = self._engine.tokenizer.encode(before)[-self._context :]
        with self._lock, torch.inference_mode():
            found = self._search(
                [self._start, *ids] if ids else [self._start], (" " if before else "") + need
            )
        best: dict[str, float] = {}
        for text, score in found:
            whole = before + text.rstrip()
            if whole.casefold() != typed.strip().casefold():
                best[whole] = max(best.get(whole, float("-inf")), score)
        ranked = sorted(best.items(), key=lambda item: -item[1])[:limit]
        return [Suggestion(text, score, "phrase") for text, score in ranked]

    def _search(self, ids: list[int], need: str) -> list[tuple[str, float]]:
        runner = CachedRunner(self._engine.model, self._engine.vocabulary)
        logits = runner.prefill([ids], self._tokens)[0]
        beams = [_Beam(0, "", ids[-1], 0.0, 0)]
        found: list[tuple[str, float]] = []
        for step in range(self._tokens):
            scores = torch.log_softmax(logits, -1)
            if step:
                found += self._finished(beams, scores, need)
            beams = self._extended(beams, scores, need)
            if not beams or step == self._tokens - 1:
                break
            runner.select([beam.row for beam in beams])
            logits = runner.step([beam.token for beam in beams])
        return found

    def _finished(self, beams: list[_Beam], scores: Tensor, need: str) -> list[tuple[str, float]]:
        """Beams that spell what was typed and may end here, scored by the mean over tokens and the end."""
        ends = torch.logsumexp(scores.masked_fill(~self._starts_word, float("-inf")), -1)
        return [
            (beam.text, (beam.score + float(end)) / (beam.length + 1))
            for beam, end in zip(beams, ends, strict=True)
            if len(beam.text) >= len(need) and beam.text.strip() and float(end) > -1.0
        ]

    def _extended(self, beams: list[_Beam], scores: Tensor, need: str) -> list[_Beam]:
        """The best continuations by one token."""
        allowed = scores + torch.stack([self._allowed(need[len(beam.text) :]) for beam in beams])
        allowed += torch.tensor([[beam.score] for beam in beams])
        values, places = allowed.flatten().topk(min(self._beams, allowed.numel()))
        found = []
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            if value > float("-inf"):
                row, token = divmod(place, allowed.shape[1])
                beam = beams[row]
                found.append(_Beam(row, beam.text + self._spelt[token], token, value, beam.length + 1))
        return found

    def _allowed(self, need: str) -> Tensor:
        """0 for tokens that spell the rest of what was typed or a beginning of it, else minus infinity."""
        if not need:
            return self._writable
        mask = torch.full_like(self._writable, float("-inf"))
        first = bisect.bisect_left(self._sorted, (need, -1))
        last = bisect.bisect_left(self._sorted, (need + _LAST, -1))
        mask[[i for _, i in self._sorted[first:last]]] = 0.0
        for length in range(1, len(need)):
            part = need[:length]
            at = bisect.bisect_left(self._sorted, (part, -1))
            while at < len(self._sorted) and self._sorted[at][0] == part:
                mask[self._sorted[at][1]] = 0.0
                at += 1
        return mask
