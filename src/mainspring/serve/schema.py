"""Requests for text, in the shape of OpenAI's API, and how they become `GenerateOptions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from mainspring.infer.options import MAX_SEED, GenerateOptions


def _has_bytes(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"is not Unicode text: half a surrogate pair at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(_has_bytes)]
"""A string that has UTF-8 bytes."""


class StreamOptions(BaseModel):
    """Settings of a streamed answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    """Send the token counts in one more chunk before the end."""


class Body(BaseModel):
    """A request's body: unknown fields are refused, null is the default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Text | None = None
    """Which model answers; may be left out where one is served."""
    user: str | None = None
    """Taken and not used."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class Writing(Body):
    """What requests for text have in common. Fields after `logit_bias` extend OpenAI's."""

    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1)
    stop: Text | list[Text] | None = None
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: float = 0.0
    """Taken at 0 only."""
    frequency_penalty: float = 0.0
    """Taken at 0 only."""
    logit_bias: dict[str, float] | None = None
    """Taken when empty only."""

    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, gt=0)
    no_repeat_ngram: int = Field(0, ge=0)
    num_beams: int = Field(1, ge=1)
    length_penalty: float = 1.0
    early_stopping: Literal[True, False, "never"] = False

    @field_validator("presence_penalty", "frequency_penalty", "logit_bias")
    @classmethod
    def _neutral(cls, value: Any) -> Any:
        if value:
            raise ValueError("is not supported; leave it out (repetition_penalty is a near relative)")
        return value

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > 16 or not all(stops):
            raise ValueError(f"should be up to 16 strings that are not empty, not {len(stops)}")
        return value

    def generate_options(
        self,
        seed: int,
        *,
        max_tokens: int,
        logprobs: int | None,
        echo: bool = False,
        stops: tuple[str, ...] = (),
    ) -> GenerateOptions:
        """Settings of the generation.

        Args:
            seed: where the request gives none.
            max_tokens: tokens at most.
            logprobs: alternatives to report.
            echo: whether the prompt is repeated.
            stops: ends of the text beside the request's own.

        Raises:
            ConfigError: settings that do not go together.
        """
        own = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return GenerateOptions(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            n=self.n,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            echo=echo,
            stop=(*own, *stops),
            seed=seed if self.seed is None else self.seed,
            logprobs=logprobs,
        )


class CompletionRequest(Writing):
    """Body of POST /v1/completions."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    """One prompt or several, as text or as tokens."""
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = None
    """Taken where it changes nothing (equal to `n`)."""
    suffix: None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[t for t in self.prompt if isinstance(t, int)]]
        return [p for p in self.prompt if not isinstance(p, int)]

    def options(self, seed: int) -> GenerateOptions:
        """Settings of the generation; `seed` where the request gives none.

        Raises:
            ConfigError: settings that do not go together.
        """
        return self.generate_options(seed, max_tokens=self.max_tokens, logprobs=self.logprobs, echo=self.echo)
