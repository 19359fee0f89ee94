"""Settings of the optimizer and of its learning-rate schedule."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mainspring.config import Section


class ScheduleConfig(Section):
    """How the learning rate changes over a run: a linear warm-up from 0, then one of four shapes."""

    kind: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "cosine"
    """Shape after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises linearly to `lr`."""
    final_ratio: float = Field(0.1, ge=0, le=1)
    """Rate at the last step over `lr` (linear, cosine); a floor for inverse_sqrt; unused by constant."""


class OptimConfig(Section):
    """Adam's family, LAMB, and their schedule."""

    kind: Literal["adamw", "adam", "radam", "lamb"] = "adamw"
    """Update rule: AdamW (arXiv 1711.05101), Adam (arXiv 1412.6980), RAdam (arXiv 1908.03265) or LAMB (arXiv
    1904.00962)."""
    compiled: bool | None = None
    """Compile the update (about a second on a CPU); null decides by size and dtypes."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the square root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of tensors of two and more dimensions (biases and norms are never decayed): of the weights, or,
    with "adam", added to the gradients."""
    clip: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 leaves gradients as they are."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over the run."""

    @model_validator(mode="after")
    def _betas_in_range(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: each should be at least 0 and below 1")
        return self
