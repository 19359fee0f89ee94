"""From pieces to the objects of OpenAI's API, whole or as server-sent events: completions and chat."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring.errors import RunFault
from mainspring.infer.batching import DeadlineError
from mainspring.infer.completion import Piece, TokenLogprob
from mainspring.serve.errors import error_body


@dataclass(slots=True, kw_only=True)
class Answer(ABC):
    """One request for text being answered."""

    model: str
    n: int
    prompt_tokens: tuple[int, ...]
    logprobs: bool
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    tokens: int = 0
    """Tokens generated so far, over all choices."""
    begun: set[int] = field(default_factory=set)
    """Choices of which something has been sent."""

    async def whole(self, pieces: AsyncIterator[Piece]) -> dict[str, Any]:
        """Everything in one object."""
        parts: dict[int, list[Piece]] = {}
        async for piece in pieces:
            self.tokens += piece.tokens
            parts.setdefault(self._choice(piece), []).append(piece)
        choices = [self._finished(number, parts[number]) for number in sorted(parts)]
        return self._object(self._kinds[0], choices, usage=self.usage())

    async def events(self, pieces: AsyncIterator[Piece], *, usage: bool) -> AsyncIterator[str]:
        """Server-sent events: a chunk for each piece with news, then the counts if asked, then [DONE]."""
        try:
            async for piece in pieces:
                self.tokens += piece.tokens
                if piece.text or piece.logprobs or piece.finish:
                    number = self._choice(piece)
                    choice = self._news(number, piece, first=number not in self.begun)
                    self.begun.add(number)
                    yield _event(self._object(self._kinds[1], [choice]))
        except DeadlineError as error:
            yield _event(error_body(str(error), "timeout_error", code="deadline"))
            return
        except RunFault as error:
            yield _event(error_body(str(error), "server_error"))
            return
        except Exception:
            # The status line has gone out; an error event is all that can still be said. The worker logged
            # the cause.
            yield _event(
                error_body("the server failed to finish the answer; its log has the cause", "server_error")
            )
            return
        if usage:
            yield _event(self._object(self._kinds[1], [], usage=self.usage()))
        yield "data: [DONE]\n\n"

    def _choice(self, piece: Piece) -> int:
        return piece.prompt * self.n + piece.index

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    def usage(self) -> dict[str, int]:
        """Tokens of prompts, of what was generated, and of both."""
        prompt = sum(self.prompt_tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens,
            "total_tokens": prompt + self.tokens,
        }

    @property
    @abstractmethod
    def _kinds(self) -> tuple[str, str]:
        """What the whole object and a chunk are called."""

    @abstractmethod
    def _finished(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A choice of the whole object."""

    @abstractmethod
    def _news(self, number: int, piece: Piece, *, first: bool) -> dict[str, Any]:
        """A choice of a chunk; `first`: of this choice."""


@dataclass(slots=True, kw_only=True)
class CompletionAnswer(Answer):
    """Of POST /v1/completions."""

    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")

    @property
    def _kinds(self) -> tuple[str, str]:
        return "text_completion", "text_completion"

    def _finished(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {
            "index": number,
            "text": _text(pieces),
            "logprobs": self._reported(_entries(pieces)),
            "finish_reason": _finish(pieces),
        }

    def _news(self, number: int, piece: Piece, *, first: bool) -> dict[str, Any]:
        return self._finished(number, [piece])

    def _reported(self, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {
            "tokens": [e.token for e in entries],
            "token_logprobs": [e.logprob for e in entries],
            # Two tokens of the same text (parts of characters) share an entry: the more probable one's.
            "top_logprobs": [dict(reversed(e.top)) if e.logprob is not None else None for e in entries],
            "text_offset": [e.offset for e in entries],
        }


@dataclass(slots=True, kw_only=True)
class ChatAnswer(Answer):
    """Of POST /v1/chat/completions."""

    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")

    @property
    def _kinds(self) -> tuple[str, str]:
        return "chat.completion", "chat.completion.chunk"

    def _finished(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {
            "index": number,
            "message": {"role": "assistant", "content": _text(pieces), "refusal": None},
            "logprobs": self._reported(_entries(pieces)),
            "finish_reason": _finish(pieces),
        }

    def _news(self, number: int, piece: Piece, *, first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if piece.text or first:
            delta["content"] = piece.text
        return {
            "index": number,
            "delta": delta,
            "logprobs": self._reported(piece.logprobs),
            "finish_reason": piece.finish,
        }

    def _reported(self, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [
            {**_named(e.token, e.logprob), "top_logprobs": [_named(t, v) for t, v in e.top]} for e in entries
        ]
        return {"content": content, "refusal": None}


def _named(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _entries(pieces: Sequence[Piece]) -> list[TokenLogprob]:
    return [entry for piece in pieces for entry in piece.logprobs]


def _finish(pieces: Sequence[Piece]) -> str | None:
    return next((piece.finish for piece in pieces if piece.finish), None)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
