"""From pieces to OpenAI's completion objects, whole or as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring.errors import RunFault
from mainspring.infer.completion import Generation, Piece, TokenLogprob
from mainspring.serve.errors import error_body


@dataclass(slots=True)
class Answer:
    """One completion request being answered."""

    model: str
    n: int
    prompt_tokens: tuple[int, ...]
    logprobs: bool
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    tokens: int = 0
    """Tokens generated so far, over all choices."""

    @classmethod
    def to(cls, generation: Generation, model: str, n: int, logprobs: bool) -> Answer:
        """The answer that a generation will give."""
        return cls(model, n, generation.prompt_tokens, logprobs)

    async def whole(self, pieces: AsyncIterator[Piece]) -> dict[str, Any]:
        """Everything in one object."""
        parts: dict[int, list[Piece]] = {}
        async for piece in pieces:
            self.tokens += piece.tokens
            parts.setdefault(self._choice(piece), []).append(piece)
        choices = [
            {
                "index": number,
                "text": "".join(piece.text for piece in parts[number]),
                "logprobs": self._logprobs([e for piece in parts[number] for e in piece.logprobs]),
                "finish_reason": next((piece.finish for piece in parts[number] if piece.finish), None),
            }
            for number in sorted(parts)
        ]
        return self._object(choices, usage=self._usage())

    async def events(self, pieces: AsyncIterator[Piece], *, usage: bool) -> AsyncIterator[str]:
        """Server-sent events: a chunk for each piece with news, then the counts if asked, then [DONE]."""
        try:
            async for piece in pieces:
                self.tokens += piece.tokens
                if piece.text or piece.logprobs or piece.finish:
                    choice = {
                        "index": self._choice(piece),
                        "text": piece.text,
                        "logprobs": self._logprobs(piece.logprobs),
                        "finish_reason": piece.finish,
                    }
                    yield _event(self._object([choice]))
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
            yield _event(self._object([], usage=self._usage()))
        yield "data: [DONE]\n\n"

    def _choice(self, piece: Piece) -> int:
        return piece.prompt * self.n + piece.index

    def _object(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    def _usage(self) -> dict[str, int]:
        prompt = sum(self.prompt_tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens,
            "total_tokens": prompt + self.tokens,
        }

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {
            "tokens": [e.token for e in entries],
            "token_logprobs": [e.logprob for e in entries],
            # Two tokens of the same text (parts of characters) share an entry: the more probable one's.
            "top_logprobs": [dict(reversed(e.top)) if e.logprob is not None else None for e in entries],
            "text_offset": [e.offset for e in entries],
        }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
