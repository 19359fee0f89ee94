"""Put sequence parallelism into a model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from mainspring.comm import Counter
from mainspring.errors import PlanError
from mainspring.nn.attention import CrossAttention, SelfAttention, TokenSpread
from mainspring.nn.moe import Gate
from mainspring.nn.transformer import Transformer
from mainspring.parallel.mesh import Axes
from mainspring.parallel.plan import Plan
from mainspring.parallel.sequence.heads import ByHeads
from mainspring.parallel.sequence.ring import Ring
from mainspring.parallel.tensor.operators import Line, Share, Total

NAME = "sequence"
"""What the traffic of attention is counted as."""


def spread_sequence(model: nn.Module, axes: Axes, plan: Plan, counter: Counter) -> None:
    """Let the tokens of `model`'s rows lie on the ranks of the sequence axis, in place.

    Every rank then runs the model on its share of each batch (`split_tokens`).

    Raises:
        PlanError: the model has no attention of ours, fewer heads than ranks, or a part that cannot be done.
    """
    group = axes.group("sequence")
    if group is None:
        return
    check_sequence(model, plan)
    line = Line(group, axes.index("sequence"), plan.sequence, counter, NAME)
    spread: TokenSpread = ByHeads(line) if plan.sequence_attention == "heads" else Ring(line)
    for module in model.modules():
        if isinstance(module, Transformer | SelfAttention | CrossAttention):
            module.spread = spread
        if isinstance(module, Gate):
            module.total = partial(_sum_both_ways, replace(line, name="balance"))


def _sum_both_ways(line: Line, sums: Tensor) -> Tensor:
    """Sums over ranks. All of them have the same loss of it, and the gradient is of all their losses."""
    total: Tensor = Total.apply(line, sums)  # type: ignore[no-untyped-call]
    shared: Tensor = Share.apply(line, total)[0]  # type: ignore[no-untyped-call]
    return shared


def check_sequence(model: nn.Module, plan: Plan) -> None:
    """Refuse what cannot be cut over tokens, with the reason and what can be done."""
    ours = [module for module in model.modules() if isinstance(module, Transformer)]
    if not ours:
        raise PlanError(
            f"plan.sequence = {plan.sequence} cuts the rows of mainspring.nn.Transformer, and this model has "
            "none; set sequence = 1"
        )
    for network in ours:
        config = network.config
        heads = config.n_heads // plan.tensor
        if network.conv is not None:
            raise PlanError(
                f"plan.sequence = {plan.sequence}: the convolution beside the first layer reads neighbours "
                "that other ranks would hold; set sequence = 1"
            )
        if plan.sequence_attention == "ring" and config.disentangled is not None:
            raise PlanError(
                'sequence_attention = "ring" has no disentangled attention (its distances need one table of '
                'all pairs); use sequence_attention = "heads"'
            )
        if plan.sequence_attention == "heads" and heads < plan.sequence:
            raise PlanError(
                f'sequence_attention = "heads" gives each of {plan.sequence} ranks some of {heads} heads; '
                f'set sequence = {heads} or less, or use sequence_attention = "ring"'
            )
