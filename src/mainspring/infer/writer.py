"""Writer: turns the tokens of one completion into its pieces: text, log-probabilities, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.infer.completion import FinishReason, Piece, TokenLogprob
from mainspring.infer.text_stream import Decodes, TextStream


class Writer:
    """Text and reports of completion `index` of prompt `prompt`."""

    def __init__(
        self,
        vocabulary: Decodes,
        prompt: int,
        index: int,
        *,
        context: Sequence[int],
        stops: Sequence[str],
        logprobs: int | None,
        end: int | None,
    ) -> None:
        """`context`: the prompt's tokens; `logprobs`: alternatives to report beside each token, None for no
        report; `end`: the token that ends a text."""
        self._vocabulary, self._prompt, self._index = vocabulary, prompt, index
        self._logprobs, self._end = logprobs, end
        self._stream = TextStream(vocabulary, stops, context)
        self._entries: list[TokenLogprob] = []
        self._emitted = 0
        self._echoed = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._stream.stopped

    def echo(self, text: str, tokens: Sequence[int], logits: Tensor | None) -> Piece:
        """The prompt as the first piece; `logits` [length, V] at its tokens where log-probabilities are
        reported."""
        entries: list[TokenLogprob] = []
        if self._logprobs is not None and logits is not None and tokens:
            whole = TextStream(self._vocabulary)
            entries.append(TokenLogprob(self._name(tokens[0]), None, 0))
            whole.push(tokens[0])
            for token, row in zip(tokens[1:], logits[:-1], strict=True):
                entries.append(self._report(token, row, min(whole.resolved, len(text))))
                whole.push(token)
        self._emitted = self._echoed = len(text)
        return Piece(self._prompt, self._index, text, tokens=0, logprobs=tuple(entries))

    def write(self, token: int, logits: Tensor | None, *, last: bool) -> Piece:
        """Take a generated token; `logits` [V] at its place; `last`: the row has reached a limit or its end.

        Returns: the piece, with `finish` set if the completion is over.
        """
        offset = self._echoed + self._stream.resolved
        if self._logprobs is not None and logits is not None:
            self._entries.append(self._report(token, logits, offset))
        ended = token == self._end
        text = "" if ended else self._stream.push(token)
        if last or self._stream.stopped:
            text += self._stream.finish()
            return self._piece(text, 1, "stop" if ended or self._stream.stopped else "length")
        return self._piece(text, 1, None)

    def close(self, finish: FinishReason) -> Piece:
        """End a completion that has no more tokens."""
        return self._piece(self._stream.finish(), 0, finish)

    def _piece(self, text: str, tokens: int, finish: FinishReason | None) -> Piece:
        self._emitted += len(text)
        # A token whose text is still held back may yet fall behind a stop string.
        whole = finish is not None and not self._stream.stopped
        ready = [e for e in self._entries if whole or e.offset < self._emitted]
        self._entries = self._entries[len(ready) :]
        return Piece(self._prompt, self._index, text, tokens, tuple(ready), finish)

    def _report(self, token: int, logits: Tensor, offset: int) -> TokenLogprob:
        assert self._logprobs is not None
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(self._logprobs, logprobs.shape[-1]))
        top = tuple(
            (self._name(int(i)), v) for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        return TokenLogprob(self._name(token), float(logprobs[token]), offset, top)

    def _name(self, token: int) -> str:
        return self._vocabulary.decode([token], skip_special=False)


def chosen_logits(runner_logits: Sequence[Tensor]) -> Tensor:
    """The logits after each prompt, [P, V], from those at its tokens, [length, V] each."""
    return torch.stack([rows[-1] for rows in runner_logits])
