"""Settings of the objectives: a union told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mainspring.config import Section


class CausalConfig(Section):
    """Predict the next token."""

    kind: Literal["clm"] = "clm"
    """Causal language modelling."""


class MaskedConfig(Section):
    """Predict tokens that were hidden, in whole words and runs of words."""

    kind: Literal["mlm"] = "mlm"
    """Masked language modelling."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is predicted (Devlin et al. 2019: 0.15)."""
    max_ngram: int = Field(3, ge=1, le=16)
    """Longest run of words masked as one; lengths n have probability proportional to 1/n."""
    whole_words: bool = True
    """Mask all the pieces of a word or none; off, every token is a word."""
    mask_share: float = Field(0.8, ge=0, le=1)
    """Of the tokens to predict, the share that is replaced by the mask token."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Of the tokens to predict, the share that is replaced by a random token; the rest stay as they are."""

    def model_post_init(self, _context: object) -> None:
        """The two shares together are at most the whole."""
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share {self.mask_share} + random_share {self.random_share} > 1")


ObjectiveConfig = Annotated[CausalConfig | MaskedConfig, Field(discriminator="kind")]
"""Any objective."""
