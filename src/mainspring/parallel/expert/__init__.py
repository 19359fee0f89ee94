"""Expert parallelism: the experts of a layer on several ranks, tokens sent to them and back."""

from mainspring.parallel.expert.spread import spread_experts

__all__ = ["spread_experts"]
