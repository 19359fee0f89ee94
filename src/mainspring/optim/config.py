"""Settings of the optimizer and of its learning-rate schedule."""

from __future__ import annotations

from typing import Annotated, Literal, Self

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


class OneBitConfig(Section):
    """How "onebit_adam", "onebit_lamb" and "zero_one_adam" send signs."""

    freeze_step: Annotated[int, Field(ge=1)] | Literal["settled"] | None = None
    """Steps of the warm-up, after which the variance stays as it is (with "zero_one_adam": the last that may
    update it); these three kinds need it. Commonly 15 to 25 % of the run, and past
    `optim.schedule.warmup_steps`. "settled" (not with "zero_one_adam"): when, past those, the sum of the
    variance has changed by less than 4 % in 1 / (1 - beta2) steps."""
    scale: Literal["l1", "l2"] = "l1"
    """Length of a message's signs: the mean of absolute values, or the root of the mean square."""
    sends: Literal["momenta", "directions"] = "momenta"
    """With "onebit_adam", what the signs are of: momenta as they are (the paper), or momenta over the root of
    the variance, which are alike in size."""
    ratio_min: float = Field(0.01, gt=0)
    """With "onebit_lamb": smallest trust ratio of the warm-up."""
    ratio_max: float = Field(10.0, gt=0)
    """With "onebit_lamb": largest trust ratio of the warm-up."""
    ratio_average: float = Field(0.9, ge=0, lt=1)
    """With "onebit_lamb": decay of the average of trust ratios that is frozen."""
    factor_min: float = Field(0.5, gt=0)
    """With "onebit_lamb": smallest factor of that average after the freeze."""
    factor_max: float = Field(4.0, gt=0)
    """With "onebit_lamb": largest factor of that average."""
    factor_change: float = Field(0.1, gt=0)
    """With "onebit_lamb": most by which that factor changes from step to step, of itself."""
    var_update_scaler: int = Field(16, ge=1)
    """With "zero_one_adam": updates of the variance after which the interval between them doubles."""
    local_step_scaler: int = Field(32678, ge=1)
    """With "zero_one_adam": steps after the freeze after which the interval between communications
    doubles."""
    local_step_clipper: int = Field(16, ge=1)
    """With "zero_one_adam": largest interval between communications, in steps."""


class OptimConfig(Section):
    """Adam's family, LAMB, those that send signs, and their schedule."""

    kind: Literal[
        "adamw", "adam", "radam", "adamax", "lamb", "onebit_adam", "onebit_lamb", "zero_one_adam"
    ] = "adamw"
    """Update rule: AdamW (arXiv 1711.05101), Adam and Adamax (arXiv 1412.6980), RAdam (arXiv 1908.03265),
    LAMB (arXiv 1904.00962); with `plan.communication = "compressed"` 1-bit Adam (arXiv 2102.02888), 1-bit
    LAMB (arXiv 2104.06069), 0/1 Adam (arXiv 2202.06009)."""
    compiled: bool | None = None
    """Compile the update (about a second on a CPU); null decides by size and dtypes."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the square root of the second moment."""
    bias_correction: bool = True
    """Divide the moments, which begin at 0, by the weight that gradients have in them; BERT's optimizer and
    XAdam do without."""
    rectify_above: float = Field(5.0, ge=4)
    """With "radam": steps whose average has this length are rectified; 5 in the authors' code and torch, 4
    in the paper."""
    unrectified: Literal["momentum", "none"] = "momentum"
    """With "radam": steps before that go by the momentum alone (the paper, torch) or change nothing (an
    option of the authors' code)."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of tensors of two and more dimensions (biases and norms are never decayed): of the weights, or,
    with "adam", added to the gradients."""
    clip: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 leaves gradients as they are."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over the run."""
    onebit: OneBitConfig = OneBitConfig()
    """Of the kinds that send signs."""

    @model_validator(mode="after")
    def _betas_in_range(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: each should be at least 0 and below 1")
        return self

    @model_validator(mode="after")
    def _signs_have_a_freeze(self) -> Self:
        freeze, rises = self.onebit.freeze_step, self.schedule.warmup_steps
        if self.sends_signs and freeze is None:
            raise ValueError(
                f'kind = "{self.kind}" freezes the variance after onebit.freeze_step steps and that is not '
                "given; commonly 15 to 25 % of the run"
            )
        if self.kind == "zero_one_adam" and freeze == "settled":
            raise ValueError(
                'kind = "zero_one_adam" plans its steps by onebit.freeze_step, and "settled" is no number; '
                "give one, commonly 15 to 25 % of the run"
            )
        if self.sends_signs and isinstance(freeze, int) and freeze < rises:
            raise ValueError(
                f"onebit.freeze_step = {freeze} lies within the warm-up of the learning rate "
                f"(schedule.warmup_steps = {rises}), where the variance has not settled: make it larger than "
                "that, or warmup_steps smaller"
            )
        if self.kind == "radam" and not self.bias_correction:
            raise ValueError('kind = "radam" is a correction of the moments; set bias_correction = true')
        return self

    @property
    def sends_signs(self) -> bool:
        """Whether the optimizer averages momenta itself, as signs."""
        return self.kind in ("onebit_adam", "onebit_lamb", "zero_one_adam")

    @property
    def passes(self) -> int:
        """How often a step goes over weights and states: LAMB's length of a layer's step is known only when
        its direction is."""
        return 2 if self.kind == "lamb" else 1
