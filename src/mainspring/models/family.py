"""What a model family is: presets of the one transformer, and the map to its published weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mainspring.models.weights import WeightMap
from mainspring.nn.config import TransformerConfig


@dataclass(frozen=True)
class Family:
    """A family of models that share an architecture and a layout of weights."""

    name: str
    presets: Mapping[str, TransformerConfig]
    """Published and tiny configurations, smallest first."""
    weights: WeightMap
    """Our parameter names beside those of the published checkpoints."""
    model_type: str
    """`model_type` in a Hugging Face config.json."""
    to_hf: Callable[[TransformerConfig], dict[str, Any]]
    """A configuration as config.json has it; raises WeightsError where that layout cannot express it."""
    from_hf: Callable[[Mapping[str, Any], Collection[str]], TransformerConfig]
    """The configuration that a config.json and the names of the weights describe.

    Raises WeightsError where the transformer cannot be it.
    """
    upgrade: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda theirs: theirs
    """Older layouts of the weights to the one that `weights` reads; others are returned as they are."""
    causal: bool = False
    """Whether its models continue text from left to right."""
