"""What generation returns: pieces while it runs, completions when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length"]
"""Why a completion ended: a stop string or the end-of-text token; or the token or position limit."""


class Speculation(NamedTuple):
    """What became of drafted tokens."""

    drafted: int
    """Tokens that the small model proposed."""
    accepted: int
    """Those of them that the large one kept."""

    @property
    def rate(self) -> float:
        """Share of drafted tokens that were kept; 0 without any."""
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log-probability under the model, before temperature and filters."""

    token: str
    """Text of the token alone ("\N{REPLACEMENT CHARACTER}" where it is part of a character)."""
    logprob: float | None
    """Natural logarithm; None for the first token of a prompt, which nothing precedes."""
    offset: int
    """Where the token's text begins in the completion's text, in characters; where half a character precedes
    it, that character's place."""
    top: tuple[tuple[str, float], ...] = ()
    """The most probable tokens at this place, best first."""


@dataclass(frozen=True, slots=True)
class Piece:
    """News of one completion: text that is final, in order."""

    prompt: int
    """Which prompt of the call, from 0."""
    index: int
    """Which completion of the prompt, from 0."""
    text: str
    """Text to append; never half a character, never part of a stop string. May be empty."""
    tokens: int
    """Tokens generated since the last piece of this completion."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of tokens whose text is complete, where `GenerateOptions.logprobs` asks."""
    finish: FinishReason | None = None
    """Set on the last piece of a completion."""
    score: float | None = None
    """Beam search, last piece: log-probability / length ** length_penalty."""
    speculation: Speculation | None = None
    """Speculative decoding, last piece: what became of the drafts."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished completion."""

    prompt: int
    """Which prompt of the call, from 0."""
    index: int
    """Which completion of the prompt, from 0 (beam search: best first)."""
    text: str
    """The generated text (after the prompt, where `echo` asks)."""
    finish: FinishReason
    """Why it ended."""
    prompt_tokens: int
    """Length of the prompt in tokens."""
    tokens: int
    """Tokens generated, with an end-of-text token and those of a stop string."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Token by token, where asked."""
    score: float | None = None
    """Beam search: log-probability / length ** length_penalty."""
    speculation: Speculation | None = None
    """What became of the drafts, where a draft model was given."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that is checked and ready: iterate `pieces` to run it, close them to end it early."""

    prompt_tokens: tuple[int, ...]
    """Length of each prompt in tokens."""
    pieces: Iterator[Piece]
    """News, as it comes; completions of a batch interleave."""


def collect(generation: Generation) -> list[Completion]:
    """Run a generation to its end. Ordered by prompt, then index."""
    pieces: dict[tuple[int, int], list[Piece]] = {}
    for piece in generation.pieces:
        pieces.setdefault((piece.prompt, piece.index), []).append(piece)
    return [_join(pieces[key], generation.prompt_tokens[key[0]]) for key in sorted(pieces)]


def _join(pieces: list[Piece], prompt_tokens: int) -> Completion:
    last = pieces[-1]
    assert last.finish is not None
    logprobs = tuple(entry for piece in pieces for entry in piece.logprobs)
    return Completion(
        prompt=last.prompt,
        index=last.index,
        text="".join(piece.text for piece in pieces),
        finish=last.finish,
        prompt_tokens=prompt_tokens,
        tokens=sum(piece.tokens for piece in pieces),
        logprobs=logprobs or None,
        score=last.score,
        speculation=last.speculation,
    )
