"""Prompts that are checked and in tokens, ready to be continued: by themselves or in a running batch."""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.infer.options import GenerateOptions


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a generation begins with; made by `Engine.prepare`."""

    texts: tuple[str, ...]
    """Text of each prompt."""
    prompts: tuple[tuple[int, ...], ...]
    """Its tokens."""
    limits: tuple[int, ...]
    """Tokens that its completions may have."""
    options: GenerateOptions
    """How to continue them."""

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """Length of each prompt in tokens."""
        return tuple(len(prompt) for prompt in self.prompts)
