"""The gate: which experts a token goes to, how much each counts, and what keeps them balanced. In fp32."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.nn.config import ExpertLayers
from mainspring.nn.moe.routing import (
    Routing,
    Total,
    alone,
    assign,
    balance_loss,
    capacity,
    choose,
    gumbel,
    priorities,
    weigh,
    z_loss,
)


class Gated(NamedTuple):
    """What a gate says about tokens."""

    routing: Routing
    """Choices that are carried out."""
    experts: Tensor
    """All choices, int64 [S, k]; E for a token that is padding."""
    auxiliary: Tensor
    """Balance loss and z loss, fp32 [2]."""


class Gate(nn.Module):
    """A linear map from tokens to experts, without bias.

    Noise and chance come from torch's default generator, as dropout's do, and in training only.
    """

    def __init__(self, config: ExpertLayers, width: int, count: int) -> None:
        super().__init__()
        self.config = config
        self.count = count
        self.weight = nn.Parameter(torch.empty(count, width))
        self.total: Total = alone
        """Adds up over the processes that have tokens of the same rows; sequence parallelism sets another."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Gated:
        """Decide about tokens.

        Args:
            x: [S, D], any floating dtype.
            valid: False at padding, which goes to no expert, bool [S] (None: no padding).
        """
        with torch.autocast(x.device.type, enabled=False):
            return self._decide(x.float(), valid)

    def _decide(self, x: Tensor, valid: Tensor | None) -> Gated:
        config = self.config
        if self.training and config.noise == "jitter":
            x = x * torch.empty_like(x).uniform_(1 - config.jitter, 1 + config.jitter)
        logits = F.linear(x, self.weight.float())
        probabilities = logits.softmax(1)
        with torch.no_grad():
            noise = gumbel(logits) if self.training and config.noise == "gumbel" else None
            experts = choose(logits, config.top_k, noise)
            if valid is not None:
                experts = experts.masked_fill(~valid[:, None], self.count)
            factor = config.capacity_factor if self.training else config.eval_capacity_factor
            tokens = len(x) if valid is None or factor is None else int(valid.sum())
            room = capacity(tokens, self.count, factor, config.top_k, config.min_capacity)
            # Chance is for training: a forward in evaluation is a function of its input.
            keep = "first" if config.keep == "random" and not self.training else config.keep
            chosen = experts.clamp(max=self.count - 1)
            order = None if room is None else priorities(keep, chosen, probabilities)
            assignment = assign(experts, self.count, room, order)
        token, weight = weigh(probabilities, experts, assignment, renormalise=config.renormalise)
        routing = Routing(token, weight, assignment.counts, len(x))
        balance = balance_loss(probabilities, chosen, valid, self.total)
        return Gated(routing, experts, torch.stack([balance, z_loss(logits, valid, self.total)]))
