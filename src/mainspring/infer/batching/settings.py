"""BatchSettings: how large a running batch may become."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mainspring.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """Bounds of continuous batching.

    Raises:
        ConfigError: a value is out of range; the message names the field.

    >>> BatchSettings(slots=0)
    Traceback (most recent call last):
    mainspring.errors.ConfigError: slots = 0: should be a whole number, 1 or more
    """

    slots: int = 16
    """Completions that are written side by side; more wait."""
    context: int = 4096
    """Tokens of a prompt and its completion together, at most; a model's positions may end them earlier."""
    chunk: int = 256
    """Tokens of prompts that are read between two steps: what a prompt that joins may hold the others up."""
    prefix_bytes: int = 256 << 20
    """Keys and values kept of prompts that have been read, for prompts that begin alike; 0 keeps none."""
    prefix_block: int = 16
    """Tokens that are kept, looked up and forgotten together."""

    def __post_init__(self) -> None:
        """Check every field."""
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "prefix_bytes" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{field.name} = {value!r}: should be a whole number, {least} or more")
