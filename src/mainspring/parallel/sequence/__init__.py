"""Sequence parallelism: ranks that each take a share of every row's tokens, for long context."""

from mainspring.parallel.sequence.spread import spread_sequence
from mainspring.parallel.sequence.tokens import split_tokens

__all__ = ["split_tokens", "spread_sequence"]
