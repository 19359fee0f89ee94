"""A model's linear maps while it is trained for narrow formats, step by step.

Parameters, gradients and optimizer states stay in full precision; what products see of the weights is narrow,
and gradients pass straight through (`numerics.straight_through`). So it is the same under every plan that
gathers whole weights for a layer's forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.errors import PlanError
from mainspring.nn.init import stable_seed
from mainspring.nn.linear import Linear
from mainspring.nn.transformer import Transformer
from mainspring.numerics import Format, format_named, in_bits, straight_through
from mainspring.parallel.plan import Plan
from mainspring.train.narrow.config import FormatTraining, MixtureTraining, NarrowConfig
from mainspring.train.narrow.schedule import LayerBits, advance, factor_of, falls, mixed_in

Measure = Callable[[Mapping[str, nn.Module]], dict[str, float]]
"""Largest eigenvalues of the layers given."""


class InFormat:
    """Operands in a format."""

    def __init__(self, weights: Format, activations: Format | None, stochastic: bool, seed: int) -> None:
        self._weights, self._activations = weights, activations
        self._stochastic, self._seed = stochastic, seed

    def weight(self, weight: Tensor) -> Tensor:
        """The weight in its format."""
        if not self._stochastic:
            return straight_through(weight, self._weights)
        draw = torch.Generator(weight.device).manual_seed(self._seed)
        return straight_through(weight, self._weights, rounding="stochastic", generator=draw)

    def input(self, input: Tensor) -> Tensor:
        """The input in its format."""
        return input if self._activations is None else straight_through(input, self._activations)


class InBits:
    """Weights in a number of bits, mixed with what they are."""

    def __init__(self, config: MixtureTraining, bits: int, mixed: float, seed: int) -> None:
        self._config, self._bits, self._mixed, self._seed = config, bits, mixed, seed

    def weight(self, weight: Tensor) -> Tensor:
        """r w + (1 - r) Q(w), with the gradient of w."""
        config = self._config
        draw = None
        if config.rounding == "stochastic":
            draw = torch.Generator(weight.device).manual_seed(self._seed)
        narrow = in_bits(
            weight,
            self._bits,
            groups=config.groups,
            symmetric=config.symmetric,
            rounding=config.rounding,
            generator=draw,
        )
        # The value is exactly what is in the bracket: w - w is 0.
        seen = self._mixed * weight.detach() + (1 - self._mixed) * narrow if self._mixed else narrow
        return seen + (weight - weight.detach())

    def input(self, input: Tensor) -> Tensor:
        """As it is."""
        return input


class Narrow:
    """Carries out the recipe's section `narrow`.

    Args:
        config: the section.
        model: what is trained, spread or not; the layers of every network of ours in it are narrowed, but
            for those that are frozen.
        plan: how it is spread.
        seed: of stochastic rounding: the same on every rank.

    Raises:
        PlanError: the plan cuts weights, whose scales would be those of the parts.
    """

    def __init__(self, config: NarrowConfig, model: nn.Module, plan: Plan, seed: int) -> None:
        self.config = config
        self._seed = seed
        if plan.tensor > 1:
            raise PlanError(
                f"plan.tensor = {plan.tensor} cuts weight matrices, and narrow.kind = {config.kind!r} scales "
                "whole ones; set plan.tensor = 1 and use data, zero or pipeline"
            )
        curved = isinstance(config, MixtureTraining) and config.eigenvalues
        if curved and (plan.offload != "none" or plan.pipeline > 1 or plan.backend == "fsdp2"):
            raise PlanError(
                "narrow.eigenvalues changes weights and takes gradients again, with the pieces of a rank in "
                f"memory; plan.offload = {plan.offload!r}, pipeline = {plan.pipeline}, backend = "
                f"{plan.backend!r}: set offload = 'none', pipeline = 1 and backend = 'flat', or eigenvalues "
                "= false"
            )
        self.layers = dict(_layers(model))
        """Layers by name."""
        start = config.start_bits if isinstance(config, MixtureTraining) else 0
        period = config.period if isinstance(config, MixtureTraining) else 0
        self._state = {name: LayerBits(start, period) for name in self.layers}

    @property
    def bits(self) -> dict[str, int]:
        """Bits of each layer's weights; of a mixture."""
        return {name: layer.bits for name, layer in self._state.items()}

    def begin(self, step: int, measure: Measure) -> bool:
        """Set what products see in step number `step`, counted from 0; tells whether bits have changed."""
        config = self.config
        if step < config.start:
            self._set(lambda name, layer: None)
            return False
        if isinstance(config, FormatTraining):
            self._set(lambda name, layer: self._in_format(config, name, step))
            return step == config.start
        since = step - config.start
        fell = [n for n, layer in self._state.items() if falls(layer, since, config.target_bits)]
        factors = dict.fromkeys(self._state, 1)
        if fell and config.eigenvalues:
            factors = _factors(measure(self.layers))
        self._state = {
            name: advance(layer, since, config.target_bits, factors[name])
            for name, layer in self._state.items()
        }
        self._set(lambda name, layer: self._in_bits(config, name, since))
        return bool(fell) or since == 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON values."""
        return {name: asdict(layer) for name, layer in self._state.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._state = {name: LayerBits(**state[name]) if name in state else one for name, one in
                       self._state.items()}  # fmt: skip

    def _in_format(self, config: FormatTraining, name: str, step: int) -> InFormat:
        activations = None if config.activations is None else format_named(config.activations)
        seed = stable_seed(self._seed, "narrow", name, step)
        return InFormat(format_named(config.weights), activations, config.rounding == "stochastic", seed)

    def _in_bits(self, config: MixtureTraining, name: str, since: int) -> InBits:
        layer = self._state[name.rsplit("/", 1)[0]]
        seed = stable_seed(self._seed, "narrow", name, since)
        return InBits(config, layer.bits, mixed_in(layer, since, config.mix_fall), seed)

    def _set(self, narrowing: Callable[[str, nn.Module], InFormat | InBits | None]) -> None:
        for name, layer in self.layers.items():
            for inner, module in layer.named_modules():
                if isinstance(module, Linear):
                    module.narrowing = narrowing(f"{name}/{inner}", layer)


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers of the networks in a model that are trained, by name."""
    wanted = {
        id(block)
        for module in model.modules()
        if isinstance(module, Transformer) and any(p.requires_grad for p in module.parameters())
        for block in module.blocks()
    }
    return [(name, module) for name, module in model.named_modules() if id(module) in wanted]


def _factors(eigenvalues: Mapping[str, float]) -> dict[str, int]:
    """Factors on the periods, of eigenvalues over their largest."""
    largest = max((v for v in eigenvalues.values() if v == v), default=0.0)
    return {name: factor_of(v / largest if largest else 0.0) for name, v in eigenvalues.items()}
