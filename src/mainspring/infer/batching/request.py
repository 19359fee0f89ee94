"""What the scheduler keeps of a call: the request, prompts that are being read, rows being written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from mainspring.data.token_row import TokenRow
from mainspring.errors import MainspringError
from mainspring.infer.batching.choosing import Chooser
from mainspring.infer.completion import Piece
from mainspring.infer.prepared import Prepared
from mainspring.infer.writer import Writer


@dataclass(slots=True, eq=False)
class Request:
    """A call under way: `prepared.options.n` completions of each of its prompts."""

    prepared: Prepared
    deadline: float | None
    """When it has to be done, by the clock of the batcher."""
    alone: str | None
    """Why it cannot run beside others, and takes its turn; None: it can."""
    unfinished: int
    """Completions that are not done."""
    cancelled: bool = False
    """Nobody wants it any more; may be set from any thread."""
    pieces: Iterator[Piece] | None = None
    """Of a request that runs alone, once its turn has come."""

    def tell(self, piece: Piece) -> News:
        """The news of a piece, the last of which is the end of the last completion."""
        self.unfinished -= piece.finish is not None
        return News(self, piece, last=self.unfinished == 0)


class News(NamedTuple):
    """What a step has to say to one request: a piece, or why there will be none."""

    request: Request
    piece: Piece | None
    fault: Exception | None = None
    last: bool = False
    """Whether nothing more comes, all completions being done."""


class DeadlineError(MainspringError, TimeoutError):
    """A request was not done by its deadline."""


@dataclass(slots=True, eq=False)
class Filling:
    """A prompt that waits or is being read, for one or more completions."""

    request: Request
    prompt: int
    indices: list[int]
    """Completions that go on from it."""
    row: TokenRow
    """What is read."""
    given: int
    """`Layout.given` of it."""
    read: int = 0
    """Tokens of `row` that the slot holds."""
    slot: int = -1


@dataclass(slots=True, eq=False)
class Row:
    """One completion being written; its slot is its place among the rows."""

    request: Request
    prompt: int
    index: int
    limit: int
    writer: Writer
    chooser: Chooser
    logits: Tensor
    """Of the next token, fp32 [V]."""
    tokens: list[int] = field(default_factory=list)
    """Tokens so far; the last has not been read yet."""
