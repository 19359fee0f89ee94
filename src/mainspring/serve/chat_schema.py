"""The chat request, in the shape of OpenAI's API."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mainspring.infer.options import GenerateOptions
from mainspring.serve.schema import Text, Writing


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart]
    name: Text | None = None
    """Handed to the template."""

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class TextFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]


class ChatRequest(Writing):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    """The newer name of `max_tokens`."""
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: TextFormat | None = None
    """Taken as text only."""
    add_generation_prompt: bool = True
    """Whether the template opens the assistant's turn."""

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: goes with logprobs = true")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("max_tokens and max_completion_tokens are one thing; give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most; None: not said."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    def options(self, seed: int, limit: int, stops: tuple[str, ...]) -> GenerateOptions:
        """Settings of the generation; `seed` and `limit` where the request gives none.

        Raises:
            ConfigError: settings that do not go together.
        """
        return self.generate_options(
            seed,
            max_tokens=self.limit or limit,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            stops=stops,
        )
