"""Progressive layer dropping: layers of a pre-norm stack are left out by chance, more as training goes on.

Zhang and He 2020 (arXiv 2010.13369). At step t the chance that the last layer is kept falls from 1 to a
floor, theta(t) = (1 - floor) exp(-decay t) + floor; layer i of L is kept with p_i = 1 - (i / L) (1 -
theta(t)). What a layer that is kept adds to the residual stream is divided by p_i, so that evaluation uses
all layers as they are.

What is dropped is a function of the seed and the step, the same on every rank and for every micro-batch:
ranks of a tensor or pipeline group stay in step, and a run is the same over any plan, before and after a
resumption. A parameter of a dropped layer has no gradient in that step, and its optimizer states rest.
"""

from __future__ import annotations

import math
import random
from typing import Literal

from pydantic import Field
from torch import nn

from mainspring.config import Section
from mainspring.errors import ConfigError, PlanError
from mainspring.nn import Transformer, TransformerConfig
from mainspring.nn.block import Block, Gates
from mainspring.nn.init import stable_seed
from mainspring.parallel.plan import Plan
from mainspring.train.narrow.config import MixtureTraining, NarrowConfig


class LayerDropConfig(Section):
    """How often layers are left out."""

    floor: float = Field(0.5, gt=0, le=1)
    """Chance of the last layer to be kept, in the long run."""
    decay: float | None = Field(None, gt=0)
    """How fast the chance falls, per step (None: 100 / train.steps, as published)."""
    unit: Literal["sub_layer", "layer"] = "sub_layer"
    """What is dropped at once: attention and feed-forward each by itself, as published, or a whole layer."""


def theta(step: int, config: LayerDropConfig, steps: int) -> float:
    """Chance of the last layer to be kept at a step, counted from 0, of a run of so many.

    >>> round(theta(1000, LayerDropConfig(decay=0.001), 100_000), 3)
    0.684
    """
    decay = 100 / steps if config.decay is None else config.decay
    return (1 - config.floor) * math.exp(-decay * step) + config.floor


def keep_probability(layer: int, depth: int, last: float) -> float:
    """Chance of a layer to be kept, counted from 0, of so many, where the last one's is `last`.

    >>> [round(keep_probability(i, 4, 0.6), 3) for i in range(4)]
    [0.9, 0.8, 0.7, 0.6]
    """
    return 1 - (layer + 1) / depth * (1 - last)


def kept_share(config: LayerDropConfig, depth: int, steps: int) -> float:
    """Part of a stack's layers that is computed on average over a run: what is left of their time.

    >>> round(kept_share(LayerDropConfig(decay=0.001), 12, 10_000), 3)
    0.756
    """
    mean = sum(theta(step, config, steps) for step in range(steps)) / steps
    return sum(keep_probability(layer, depth, mean) for layer in range(depth)) / depth


def draw(
    config: LayerDropConfig, depth: int, seed: int, step: int, steps: int, stack: int = 0
) -> list[Gates]:
    """Which sub-layers of a stack are computed at a step, and what their results are multiplied by.

    Args:
        config: how often.
        depth: layers of the stack.
        seed: the run's.
        step: counted from 0.
        steps: of the whole run.
        stack: number of the stack, where there are two.

    Returns:
        For each layer: 0 (dropped) or 1 / p.
    """
    last = theta(step, config, steps)
    chance = random.Random(stable_seed(seed, "layer drop", step, stack))
    gates = []
    for layer in range(depth):
        keep = keep_probability(layer, depth, last)
        factors = [1 / keep if chance.random() < keep else 0.0 for _ in Gates._fields]
        gates.append(Gates(*factors) if config.unit == "sub_layer" else Gates(*factors[:1] * len(factors)))
    return gates


def set_gates(model: nn.Module, config: LayerDropConfig, seed: int, step: int, steps: int) -> None:
    """Drop layers of the transformers in a model, or of what part of it is here, until the next call."""
    for module in model.modules():
        if not isinstance(module, Transformer):
            continue
        for number, stack in enumerate(s for s in (module.encoder, module.layers) if s is not None):
            every = draw(config, len(stack), seed, step, steps, number)
            for block, gates in zip(stack, every, strict=True):
                if isinstance(block, Block):
                    block.gates = gates


def check_layer_drop(
    config: TransformerConfig, trained: type[nn.Module], plan: Plan, narrow: NarrowConfig | None = None
) -> None:
    """Refuse what layers cannot be dropped of.

    Args:
        config: the network's.
        trained: what the objective trains.
        plan: over which ranks.
        narrow: training for narrow formats.

    Raises:
        ConfigError, PlanError: with the reason and what can be done.
    """
    if plan.backend == "fsdp2":
        raise PlanError(
            'train.layer_drop with plan.backend = "fsdp2": FSDP2 gives a layer that is left out gradients of '
            "zero, which move its weights by old moments, where every other plan lets it rest; use "
            'plan.backend = "flat"'
        )
    if isinstance(narrow, MixtureTraining):
        raise ConfigError(
            'train.layer_drop: narrow.kind = "mixture" measures the curvature of every layer, and a dropped '
            "one has none; leave one of the two out"
        )
    if config.norm_place != "pre":
        raise ConfigError(
            'train.layer_drop needs norm_place = "pre": where the residual sum is normalised after each '
            "layer, one that is left out changes the scale of all that follow; change the model, or leave "
            "layer_drop out"
        )
    if config.experts is not None:
        raise ConfigError(
            "train.layer_drop: the balance of experts is measured each step, and a dropped layer has none; "
            "leave out layer_drop or the model's experts"
        )
    if trained is not Transformer:
        raise ConfigError(
            f"train.layer_drop: the objective trains a {trained.__name__}, networks that read one another's "
            "layers; use an objective of one network, or leave layer_drop out"
        )
