"""GenerateOptions: everything a caller may ask of one generation, checked where it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mainspring.errors import ConfigError

if TYPE_CHECKING:
    from mainspring.infer.engine import Engine

MAX_SEED = 2**63 - 1
"""Largest seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to continue a prompt. The default is greedy: the same answer every time.

    Raises:
        ConfigError: a value is out of range, or two of them do not go together; the message names the field.

    >>> GenerateOptions(temperature=-1.0)
    Traceback (most recent call last):
    mainspring.errors.ConfigError: temperature = -1.0: should be 0 (greedy) or more
    """

    max_tokens: int = 64
    """Tokens to generate at most; the model's last position may end a completion earlier."""
    temperature: float = 0.0
    """Logits are divided by this before sampling; 0 takes the most probable token."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0 is all."""
    top_p: float = 1.0
    """Sample among the fewest tokens that together have at least this probability."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that the row already holds less probable."""
    no_repeat_ngram: int = 0
    """No run of so many tokens is generated twice in a row of text (3: no trigram); 0 allows all."""
    num_beams: int = 1
    """Hypotheses kept by beam search; 1 is none."""
    length_penalty: float = 1.0
    """A finished hypothesis scores log-probability / length ** this: above 0 favours long ones."""
    early_stopping: bool | Literal["never"] = False
    """When beam search ends: True at `num_beams` finished hypotheses; False when the best open one cannot win
    at its present length; "never" when it could not win at any length."""
    n: int = 1
    """Completions of each prompt; with beams the n best hypotheses."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    seed: int = 0
    """Of all random draws; completion j of a prompt draws from (seed, j), whatever else is in the batch."""
    logprobs: int | None = None
    """Report each token's log-probability under the model, and this many of the most probable ones beside
    it."""
    echo: bool = False
    """Put the prompt before the text."""
    use_cache: bool = True
    """Keep keys and values of past tokens; False computes everything again for each token (a check, and
    slow)."""

    draft: Engine | None = None
    """A small model that drafts tokens for this one to judge (`infer.speculative`); None: no draft."""
    draft_tokens: int = 4
    """Tokens that it drafts at a time."""

    def __post_init__(self) -> None:
        """Check every field and the ways in which they combine."""
        _whole("max_tokens", self.max_tokens, 0, "tokens")
        _real("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more")
        _whole("top_k", self.top_k, 0, "tokens, or 0 for all")
        _real("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _real(
            "repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0 (1 is none)"
        )
        _whole("no_repeat_ngram", self.no_repeat_ngram, 0, "tokens, or 0 for no limit")
        _whole("num_beams", self.num_beams, 1, "hypotheses")
        _real("length_penalty", self.length_penalty, True, "a finite number")
        _whole("draft_tokens", self.draft_tokens, 1, "tokens")
        _whole("n", self.n, 1, "completions")
        _whole("seed", self.seed, 0, "")
        if self.seed > MAX_SEED:
            raise ConfigError(f"seed = {self.seed}: should be at most {MAX_SEED}")
        if self.early_stopping not in (True, False, "never"):
            raise ConfigError(f"early_stopping = {self.early_stopping!r}: should be True, False or 'never'")
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, "alternatives, or None for no report")
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise ConfigError(f"stop = {self.stop!r}: should be a tuple of strings that are not empty")
        if self.num_beams > 1 and self.temperature > 0:
            raise ConfigError(
                f"num_beams = {self.num_beams} with temperature = {self.temperature}: beam search takes the "
                "most probable hypotheses; use temperature = 0, or num_beams = 1 to sample"
            )
        if self.num_beams > 1 and self.n > self.num_beams:
            raise ConfigError(
                f"n = {self.n}: beam search with num_beams = {self.num_beams} has {self.num_beams} at most"
            )

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    @property
    def remembers(self) -> bool:
        """Whether the choice of a token depends on those that the row already holds."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram > 0


def _whole(field: str, value: object, least: int, unit: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(
            f"{field} = {value!r}: should be a whole number, {least} or more{unit and ' ' + unit}"
        )


def _real(field: str, value: float, legal: bool, what: str) -> None:
    if not legal or not math.isfinite(value):
        raise ConfigError(f"{field} = {value!r}: should be {what}")
