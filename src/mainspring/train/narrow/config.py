"""Settings of training for narrow formats: a union told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mainspring.config import Section
from mainspring.numerics import format_named


class FormatTraining(Section):
    """Forward in the values of a narrow format, backward straight through (quantisation-aware training)."""

    kind: Literal["format"] = "format"
    """One format throughout."""
    weights: str = "int8"
    """Format of the layers' weights: int8, int4-g32, msfp12, mxfp4, ..."""
    activations: str | None = None
    """Format of the inputs of the layers' linear maps (None: they stay as they are)."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """Of weights; those of activations are always rounded to the nearest."""
    start: int = Field(0, ge=0)
    """Optimizer steps before it begins."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (self.weights, self.activations):
            if name is not None:
                format_named(name)
        return self


class MixtureTraining(Section):
    """Bits of the layers' weights fall one after another, by a schedule (MoQ: mixture of quantisation)."""

    kind: Literal["mixture"] = "mixture"
    """Fewer bits as training goes on."""
    start_bits: int = Field(16, ge=1, le=16)
    """Bits with which it begins."""
    target_bits: int = Field(8, ge=1, le=16)
    """Bits with which it ends; 2 are ternary, 1 is binary."""
    start: int = Field(100, ge=0)
    """Optimizer steps before it begins."""
    period: int = Field(1000, ge=1)
    """Steps from there to the first fall; each fall doubles it."""
    groups: int = Field(1, ge=1)
    """Equal parts of a matrix that have a scale each."""
    symmetric: bool = True
    """Steps around 0; off, over [min, max]."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """Of linear steps."""
    mix_fall: float = Field(0.0, ge=0, le=1)
    """How fast weights as they are go out of the mixture r w + (1 - r) Q(w): r begins at 1 with each fall
    and falls by so much a step (0: nothing is mixed in)."""
    eigenvalues: bool = False
    """Multiply a layer's period, whenever it falls, by 1 + floor(4 l), l the layer's largest eigenvalue of
    the Hessian over the largest of all layers: what is sensitive falls slower."""
    iterations: int = Field(100, ge=1)
    """Most steps of a power iteration."""
    tolerance: float = Field(1e-2, gt=0)
    """Relative change of an eigenvalue at which it ends."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.target_bits > self.start_bits:
            raise ValueError(
                f"target_bits = {self.target_bits} is above start_bits = {self.start_bits}; nearest legal "
                f"value: {self.start_bits}"
            )
        return self


NarrowConfig = Annotated[FormatTraining | MixtureTraining, Field(discriminator="kind")]
"""How a model is trained for narrow formats."""
