"""How a parameter of ours and its published counterparts hold the same numbers, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mainspring.errors import WeightsError
from mainspring.nn.config import TransformerConfig


class Transform(Protocol):
    """A change of layout; also applied to meta tensors, to know shapes."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """Published tensors to ours."""

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """Our tensor to the published ones."""


@dataclass(frozen=True)
class Identity:
    """The same tensor."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """The tensor."""
        return theirs[0]

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """The tensor."""
        return [ours]


@dataclass(frozen=True)
class Transpose:
    """The published matrix is [in, out], ours [out, in]."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """[in, out] to [out, in]."""
        return theirs[0].t()

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """[out, in] to [in, out]."""
        return [ours.t()]


@dataclass(frozen=True)
class VocabularyRows:
    """The published table has `vocab_size` rows, ours `rows` of which the last are zero."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """Add rows of zeros."""
        table = theirs[0]
        extra = config.rows - table.shape[0]
        return table if extra <= 0 else torch.cat([table, table.new_zeros(extra, *table.shape[1:])])

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """Leave the rows of zeros out."""
        return [ours[: config.vocab_size]]


@dataclass(frozen=True)
class Copies:
    """The published layout holds the same numbers twice, under two names."""

    inner: Transform = field(default_factory=Identity)
    """Layout of each."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """Either copy.

        Raises:
            WeightsError: the copies differ, and so it is not clear which the model computes with.
        """
        first, second = theirs
        if not first.is_meta and not torch.equal(first, second):
            raise WeightsError(
                f"two copies of one tensor of shape {list(first.shape)} (a head's bias and its decoder's) "
                f"differ; keep the one the model was used with, and copy it over the other"
            )
        return self.inner.read([first], config)

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """Both copies."""
        theirs = self.inner.write(ours, config)
        return [*theirs, *(t.clone() for t in theirs)]


@dataclass(frozen=True)
class StackedExperts:
    """The published layout has a tensor for each expert; ours stacks matrices and joins vectors."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """E of [out, in] to [E, out, in], or E of [out] to [E * out]."""
        return torch.stack(list(theirs)) if theirs[0].ndim > 1 else torch.cat(list(theirs))

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """One tensor for each expert."""
        assert config.experts is not None and isinstance(config.experts.count, int)
        stacked = ours if ours.ndim > 1 else ours.view(config.experts.count, -1)
        return list(stacked.unbind(0))


@dataclass(frozen=True)
class FusedHeads:
    """Ours joins projections with rows [head, part, head_dim]; theirs are blocks of rows [head, head_dim]."""

    parts: int = 3
    """Projections joined: query, key, value."""
    stacked: bool = False
    """Theirs is one tensor, the blocks one after the other; else one tensor each."""
    transposed: bool = False
    """Their matrices are [in, out]."""

    def read(self, theirs: Sequence[Tensor], config: TransformerConfig) -> Tensor:
        """Blocks to interleaved rows."""
        upright = [t.t() if self.transposed and t.ndim == 2 else t for t in theirs]
        blocks = list(upright[0].chunk(self.parts)) if self.stacked else upright
        heads = [b.reshape(config.n_heads, config.head_width, *b.shape[1:]) for b in blocks]
        joined = torch.stack(heads, dim=1)
        return joined.reshape(-1, *joined.shape[3:])

    def write(self, ours: Tensor, config: TransformerConfig) -> list[Tensor]:
        """Interleaved rows to blocks."""
        rest = ours.shape[1:]
        heads = ours.reshape(config.n_heads, self.parts, config.head_width, *rest)
        blocks = [heads[:, part].reshape(-1, *rest) for part in range(self.parts)]
        if self.stacked:
            blocks = [torch.cat(blocks)]
        return [b.t() if self.transposed and b.ndim == 2 else b for b in blocks]
