"""Expert parallelism: the experts of a layer on several ranks, tokens sent to them and back."""

from mainspring.parallel.expert.spread import expert_layers, spread_experts

__all__ = ["expert_layers", "spread_experts"]
