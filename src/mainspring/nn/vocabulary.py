"""Which rows of a table of tokens are here, and what is asked of the ranks that have the others.

Shoeybi et al. 2019 (Megatron-LM, arXiv 1909.08053), section 3: looking up gives 0 for tokens of other ranks
and adds up; each rank has logits of its own tokens, and a loss needs of the others' only two numbers a token.
One process has all rows (`WHOLE`).

Legend: N tokens to predict, V tokens of the vocabulary, C of them here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Vocabulary(Protocol):
    """Rows of a table that are here."""

    first: int
    """Token of the first row."""
    total: int
    """Tokens of the vocabulary; 0 where logits are of all."""

    def embed(self, table: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """Vectors of tokens of any rank, by a table of rows that are here: ids [...] -> [..., width]."""
        ...

    def combine(self, largest: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The largest logit of all tokens, and two sums over all tokens, from those over the tokens here. It
        has no gradient.

        Args:
            largest: fp32 [N]; minus infinity where no token is here.
            sums: of exp(logit - largest), and of anything else, fp32 [2, N].
        """
        ...

    def gather(self, logits: Tensor) -> Tensor:
        """Logits of all tokens: [..., C] -> [..., V]."""
        ...


class Whole:
    """All rows are here."""

    first = 0
    total = 0

    def embed(self, table: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """Look up."""
        return table(ids)

    def combine(self, largest: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The same."""
        return largest, sums

    def gather(self, logits: Tensor) -> Tensor:
        """The same."""
        return logits


WHOLE = Whole()
