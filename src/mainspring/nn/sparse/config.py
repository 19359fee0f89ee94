"""Which layout of blocks attention has: a section for each published one.

Sources: Child et al. 2019 (Sparse Transformers, arXiv 1904.10509), Beltagy et al. 2020 (Longformer, arXiv
2004.05150), Zaheer et al. 2020 (BigBird, arXiv 2007.14062), and the block layouts that DeepSpeed Sparse
Attention (2020) made of them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mainspring.config import Section

Attention = Literal["bidirectional", "unidirectional"]


class _Blocks(Section):
    """What all layouts have."""

    block: int = Field(16, ge=1)
    """Tokens of a block, by their positions: those at positions 0 to block - 1 are its first."""
    attention: Attention = "bidirectional"
    """Whether blocks see later ones. Within a block, and beside it, who sees whom is as ever a matter of the
    tokens: causal text stays causal with either, and with "unidirectional" nothing is computed in vain."""

    @property
    def patterns_differ(self) -> bool:
        """Whether heads have layouts of their own."""
        return False


class _Drawn(_Blocks):
    """A layout with blocks drawn at random."""

    per_head: bool = False
    """Whether each head has random blocks of its own."""
    seed: int = Field(0, ge=0)
    """Seed of the random blocks, which belong to the model."""

    @property
    def patterns_differ(self) -> bool:
        return self.per_head


class Fixed(_Blocks):
    """Windows side by side, and blocks that stand for each and are seen by all (Child et al. 2019, 4.3)."""

    kind: Literal["fixed"] = "fixed"
    local_blocks: int = Field(4, ge=1)
    """Blocks of a window."""
    global_blocks: int = Field(1, ge=1)
    """Representative blocks of a window: its last ones."""
    horizontal: bool = False
    """Whether representatives also see all blocks."""
    global_patterns: int = Field(1, ge=1)
    """With more than 1, heads take turns: those of the second pattern have the blocks before the last ones as
    representatives, and so on."""

    @property
    def patterns_differ(self) -> bool:
        return self.global_patterns > 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.local_blocks % self.global_blocks:
            near = max(n for n in range(1, self.global_blocks) if self.local_blocks % n == 0)
            raise ValueError(
                f"local_blocks = {self.local_blocks} does not divide by global_blocks = "
                f"{self.global_blocks}; nearest legal global_blocks: {near}"
            )
        most = self.local_blocks // self.global_blocks
        if self.global_patterns > most:
            raise ValueError(
                f"global_patterns = {self.global_patterns}: a window of {self.local_blocks} blocks has "
                f"{most} choices of {self.global_blocks} representatives; nearest legal value: {most}"
            )
        _check_horizontal(self.horizontal, self.attention)
        return self


class Variable(_Drawn):
    """Windows of several sizes, blocks that all see, and random ones (DeepSpeed's extension of Fixed)."""

    kind: Literal["variable"] = "variable"
    random_blocks: int = Field(0, ge=0)
    """Random blocks that each block sees."""
    local_windows: tuple[PositiveInt, ...] = (4,)
    """Blocks of the first, second, ... window; the last number repeats."""
    global_blocks: tuple[NonNegativeInt, ...] = (0,)
    """Numbers of the blocks that all see; with `global_ends`, of the first of each run of them."""
    global_ends: tuple[PositiveInt, ...] | None = None
    """Number of the first block after each run of global ones (None: runs of one block)."""
    horizontal: bool = False
    """Whether global blocks also see all blocks."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.local_windows:
            raise ValueError("local_windows is empty; give the blocks of at least one window, e.g. [4]")
        _check_ends(self.global_blocks, self.global_ends)
        _check_horizontal(self.horizontal, self.attention)
        return self


class BigBird(_Drawn):
    """A sliding window, the first blocks, which see all and are seen by all, and random ones (Zaheer et al.
    2020)."""

    kind: Literal["bigbird"] = "bigbird"
    random_blocks: int = Field(1, ge=0)
    """Random blocks that each block sees."""
    window_blocks: int = Field(3, ge=1)
    """Blocks of the window, the block itself in the middle; odd."""
    global_blocks: int = Field(1, ge=0)
    """So many first blocks see all and are seen by all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_odd(self.window_blocks)
        return self


class BSLongformer(_Blocks):
    """A sliding window, and chosen blocks that see all and are seen by all (Beltagy et al. 2020, section 3.1,
    by blocks)."""

    kind: Literal["bslongformer"] = "bslongformer"
    window_blocks: int = Field(3, ge=1)
    """Blocks of the window, the block itself in the middle; odd."""
    global_blocks: tuple[NonNegativeInt, ...] = (0,)
    """Numbers of the global blocks; with `global_ends`, of the first of each run of them."""
    global_ends: tuple[PositiveInt, ...] | None = None
    """Number of the first block after each run of global ones (None: runs of one block)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_odd(self.window_blocks)
        _check_ends(self.global_blocks, self.global_ends)
        return self


class SlidingWindow(_Blocks):
    """A sliding window alone."""

    kind: Literal["sliding_window"] = "sliding_window"
    window_blocks: int = Field(3, ge=1)
    """Blocks of the window, the block itself in the middle (with "unidirectional" its later half is not
    seen); odd."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_odd(self.window_blocks)
        return self


SparseAttention = Annotated[
    Fixed | Variable | BigBird | BSLongformer | SlidingWindow, Field(discriminator="kind")
]


def _check_odd(window: int) -> None:
    if window % 2 == 0:
        raise ValueError(f"window_blocks = {window} has no middle; nearest legal value: {window + 1}")


def _check_horizontal(horizontal: bool, attention: Attention) -> None:
    if horizontal and attention == "unidirectional":
        raise ValueError(
            'horizontal = true lets global blocks see later ones; set attention = "bidirectional", or leave '
            "horizontal out"
        )


def _check_ends(starts: tuple[int, ...], ends: tuple[int, ...] | None) -> None:
    if ends is None:
        return
    if len(ends) != len(starts):
        raise ValueError(
            f"global_ends has {len(ends)} numbers and global_blocks {len(starts)}; give an end for each start"
        )
    for start, end in zip(starts, ends, strict=True):
        if end <= start:
            raise ValueError(
                f"global_ends: a run from block {start} ends at {end}; nearest legal end: {start + 1}"
            )
