"""BatchStats: what a running batch holds and has read."""

from __future__ import annotations

from typing import NamedTuple


class BatchStats(NamedTuple):
    """Counts of one batcher."""

    waiting: int
    """Prompts in line, with requests that run alone."""
    reading: int
    """Prompts being read."""
    writing: int
    """Completions being written: the size of the batch."""
    slots: int
    """Completions that may be written at once."""
    tokens: int
    """Tokens whose keys and values the slots hold."""
    cache_bytes: int
    """Bytes of the slots' buffers."""
    prefix_bytes: int
    """Bytes of the prefixes that are kept."""
    prompt_tokens: int
    """Tokens of prompts that were read, since the start."""
    reused_tokens: int
    """Tokens of prompts that were not, because a prefix was kept."""
