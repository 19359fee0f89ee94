"""Settings of the objectives: a union told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mainspring.config import Section


class CausalConfig(Section):
    """Predict the next token."""

    kind: Literal["clm"] = "clm"
    """Causal language modelling."""


class ReplacementConfig(Section):
    """What stands in place of a token to predict; base of the objectives that hide tokens."""

    mask_share: float = Field(0.8, ge=0, le=1)
    """Of the tokens to predict, the share that is replaced by the mask token."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Of the tokens to predict, the share that is replaced by a random token; the rest stay as they are."""

    def model_post_init(self, _context: object) -> None:
        """The two shares together are at most the whole."""
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share {self.mask_share} + random_share {self.random_share} > 1")


class MaskedConfig(ReplacementConfig):
    """Predict tokens that were hidden, in whole words and runs of words."""

    kind: Literal["mlm"] = "mlm"
    """Masked language modelling."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is predicted (Devlin et al. 2019: 0.15)."""
    max_ngram: int = Field(3, ge=1, le=16)
    """Longest run of words masked as one; lengths n have probability proportional to 1/n."""
    whole_words: bool = True
    """Mask all the pieces of a word or none; off, every token is a word."""


class PseudoMaskedConfig(ReplacementConfig):
    """Predict blocks of hidden tokens, each at once and one block after another (UniLMv2)."""

    kind: Literal["pmlm"] = "pmlm"
    """Pseudo-masked language modelling."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is predicted, reached from above by less than a block."""
    block_share: float = Field(0.4, ge=0, le=1)
    """Probability that a block has several tokens."""
    max_block: int = Field(6, ge=1, le=64)
    """Most tokens of a block; those of several have 2 to so many, each with equal chance."""
    par_weight: float = Field(1.0, ge=0)
    """Weight of the partially autoregressive loss beside the autoencoding one."""


ObjectiveConfig = Annotated[
    CausalConfig | MaskedConfig | PseudoMaskedConfig,
    Field(discriminator="kind"),
]
"""Any objective."""


def predicted_share(config: ObjectiveConfig) -> float:
    """Share of the tokens of a row for which logits are computed: what the planner has to know of it."""
    match config:
        case PseudoMaskedConfig():
            return min(1.0, 2 * config.rate)
        case MaskedConfig():
            return config.rate
        case _:
            return 1.0
