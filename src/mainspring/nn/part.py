"""Parts of a model that computes in several places one after another: which blocks, and what goes on from one
part to the next.

A model that can do so has `blocks()`, takes `part` and `carried` in its forward, and says with `outside`
which other modules a part uses (`RunsInParts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from mainspring.errors import UsageError


@dataclass(frozen=True)
class Part:
    """Consecutive blocks of a model, with what goes before the first and after the last of all."""

    start: int
    """Number of its first block."""
    stop: int
    """Number of the first block after it."""
    total: int
    """Blocks of the whole model."""

    @property
    def first(self) -> bool:
        """Whether the model begins here."""
        return self.start == 0

    @property
    def last(self) -> bool:
        """Whether the model ends here."""
        return self.stop == self.total


class Carried(NamedTuple):
    """What a part hands on to the next. Legend: B rows, T tokens, S tokens of a source, D width."""

    x: Tensor | None = None
    """The residual stream [B, T, D]; inside an encoder that has a decoder after it, the source's, [B, S, D].
    None exactly between the two."""
    memory: Tensor | None = None
    """The encoder's output, for the decoder's parts, [B, S, D]."""
    auxiliary: Tensor | None = None
    """Losses of layers with experts so far, fp32 [2]."""


@runtime_checkable
class RunsInParts(Protocol):
    """A model that can be run part by part."""

    def blocks(self) -> list[nn.Module]:
        """Its blocks in the order of computation; between any two it can be cut."""
        ...

    def outside(self, part: Part) -> list[nn.Module]:
        """The modules beside the blocks whose parameters a part uses."""
        ...

    def costs(self) -> Sequence[float]:
        """How long each block takes, in any unit; what goes before the first and after the last counts
        there."""
        ...


class Absent(nn.Module):
    """Stands where a block is that another rank holds."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this rank holds some of the model's blocks only: run the model with parallel.accumulate, which "
            "takes it through all stages of the pipeline"
        )
