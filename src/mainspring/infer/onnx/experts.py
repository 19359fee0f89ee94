"""Layers of experts as a graph can hold them: shapes that follow from the data, and no loop over them.

Where the model sorts tokens by expert and takes counts out of tensors, a graph keeps a table of tokens by
experts: each one's factor, 0 where it does not go. An expert picks the rows of its column that are not 0
(`NonZero`), so no token is multiplied by a matrix of an expert that it did not choose.

Legend: B rows, T tokens, S = B * T, D width, E experts, k choices of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mainspring.errors import UsageError
from mainspring.nn.moe import ExpertFeedForward, ExpertList, Gate
from mainspring.nn.moe.routing import choose


class GraphExperts(ExpertFeedForward):
    """A layer of experts in evaluation, of tensors alone; it shares the layer's parameters."""

    def __init__(self, layer: ExpertFeedForward) -> None:
        nn.Module.__init__(self)  # nothing is built: all parts are the layer's
        self.gate, self.dense, self.mix = layer.gate, layer.dense, layer.mix
        self.list = ExpertList(layer.experts)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `ExpertFeedForward.forward`; auxiliary losses are for training, and 0 here."""
        flat = x.reshape(-1, x.shape[-1])
        factors = shares(self.gate, flat, None if valid is None else valid.reshape(-1))
        tokens, rows = [], []
        for number, factor in enumerate(factors.unbind(1)):
            (chosen,) = (factor > 0).nonzero(as_tuple=True)
            tokens.append(chosen)
            rows.append(self.list.expert(number, flat[chosen]) * factor[chosen, None].to(x.dtype))
        out = torch.zeros_like(flat).index_add(0, torch.cat(tokens), torch.cat(rows)).view_as(x)
        if self.dense is not None and self.mix is not None:
            share = torch.softmax(self.mix(x), dim=-1)
            out = share[..., :1] * out + share[..., 1:] * self.dense(x)
        return out, x.new_zeros(2, dtype=torch.float32)


@contextmanager
def graph_experts(model: nn.Module) -> Iterator[None]:
    """Have `GraphExperts` in the place of a model's layers of experts for a while.

    Raises:
        UsageError: experts are spread over ranks.
    """
    layers = {name: one for name, one in model.named_modules() if isinstance(one, ExpertFeedForward)}
    for name, layer in layers.items():
        here = layer.experts.up.weight.shape[0]
        if here < layer.gate.count:
            raise UsageError(
                f"{name}: {here} of {layer.gate.count} experts are on this rank; export a whole model "
                "(parallel.full_state)"
            )
    try:
        for name, layer in layers.items():
            model.set_submodule(name, GraphExperts(layer).eval())
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


def shares(gate: Gate, x: Tensor, valid: Tensor | None) -> Tensor:
    """What a gate decides in evaluation, as a table.

    Args:
        gate: the gate.
        x: [S, D].
        valid: False at padding, bool [S] (None: no padding).

    Returns:
        Factors of the experts that tokens go to, and 0 for all others, fp32 [S, E].
    """
    config, count = gate.config, gate.count
    # As a stack of one matrix, which is none of those that int8 stores narrow: by a rounding a token would go
    # to another expert.
    logits = torch.matmul(x.float()[None], gate.weight.float().t()[None])[0]
    probabilities = logits.softmax(1)
    experts = choose(logits, config.top_k)
    chosen = experts[:, :, None] == torch.arange(count, device=x.device)
    if valid is not None:
        chosen = chosen & valid[:, None, None]
    if config.eval_capacity_factor is not None:
        tokens = torch.ones_like(x[:, 0], dtype=torch.bool) if valid is None else valid
        ahead = -probabilities.gather(1, experts) if config.keep == "probability" else None
        chosen = chosen & _has_room(gate, chosen, tokens, ahead)
    factors = probabilities[:, None] * chosen
    if config.renormalise and config.top_k > 1:
        factors = factors / factors.sum((1, 2), keepdim=True).clamp(min=torch.finfo(factors.dtype).eps)
    return factors.sum(1)


def _has_room(gate: Gate, chosen: Tensor, valid: Tensor, priority: Tensor | None) -> Tensor:
    """Whether a choice is among those that its expert takes (`nn.moe.routing.assign`), bool [S, k, 1].

    Args:
        gate: the gate.
        chosen: bool [S, k, E].
        valid: tokens that count, bool [S].
        priority: the lower, the sooner a choice is kept, [S, k] (None: first choices first, then by token).
    """
    config = gate.config
    # `capacity`, of a number of tokens that the graph counts.
    share = valid.sum().double() * config.top_k * float(config.eval_capacity_factor or 0) / gate.count
    room = ((share * 1e9).round() / 1e9).ceil().clamp(min=config.min_capacity)
    flat = chosen.transpose(0, 1).reshape(-1, gate.count).long()
    if priority is None:
        place = flat.cumsum(0)
    else:
        order = priority.t().reshape(-1).argsort(stable=True)
        place = flat[order].cumsum(0)[order.argsort()]
    kept = (place * flat).sum(1) <= room
    return kept.view(config.top_k, -1).t()[:, :, None]
