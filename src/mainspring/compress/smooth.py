"""Moving the size of outlying inputs into the weights that read them, exactly.

Xiao et al. 2022 (SmoothQuant, arXiv 2211.10438), section 4: inputs are divided, column by column, by
s = max|x|^a / max|w|^(1 - a), and the weights that read them multiplied, so that both are easy to narrow.
The division is folded into what makes the inputs: the norm before a layer (where norms stand before
sub-layers; one after a residual sum also feeds the residual, and nothing can be folded into it), the rows
that make values, and the ungated half before a gated feed-forward's last map. Where nothing linear makes the
inputs (behind GELU), they stay as they are.

Legend: N outputs, K inputs of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mainspring.compress.calibrate import Seen
from mainspring.errors import UsageError
from mainspring.nn.attention import SelfAttention
from mainspring.nn.block import Block
from mainspring.nn.feed_forward import FeedForward
from mainspring.nn.transformer import Transformer

SMALLEST = 1e-5
"""Least factor, as a share of the largest: columns that nearly vanish are not blown up."""


def factors(largest: Tensor, weight: Tensor, strength: float) -> Tensor:
    """s of each input column, fp32 [K]; 1 where inputs or weights are all 0.

    Args:
        largest: max |x| of each column, [K].
        weight: [N, K].
        strength: a, from 0 (all to the inputs) to 1 (all to the weights).
    """
    sizes = weight.detach().abs().amax(0).float()
    s = largest.pow(strength) / sizes.pow(1 - strength)
    s = torch.where((largest > 0) & (sizes > 0) & s.isfinite(), s, 1.0)
    return s.clamp(min=float(s.max()) * SMALLEST)


@torch.no_grad()
def smooth_layer(block: Block, seen: Mapping[str, Seen], strength: float = 0.5) -> dict[str, Tensor]:
    """Migrate in a layer what can be, in place; its outputs stay what they were.

    Args:
        block: the layer.
        seen: what its maps saw, by their names in the layer.
        strength: `factors` has it.

    Returns:
        The factors by the name of the map whose inputs were divided.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength of a migration is between 0 and 1, not {strength}")
    done: dict[str, Tensor] = {}
    for name, (weight, divide) in _places(block).items():
        if name not in seen:
            continue
        s = factors(seen[name].largest, weight, strength).to(weight.device)
        s = divide(s)
        weight.mul_(s.to(weight.dtype))
        done[name] = s
    return done


def smoothable(model: Transformer) -> list[str]:
    """Names of the maps whose inputs can be divided."""
    return [
        f"{prefix}.{name}"
        for prefix, block in model.named_modules()
        if isinstance(block, Block)
        for name in _places(block)
    ]


Divide = Callable[[Tensor], Tensor]
"""Divides what makes the inputs by s [K], and returns the factors that it could divide by."""


def _places(block: Block) -> dict[str, tuple[Tensor, Divide]]:
    """Maps whose inputs can be divided: their weights, and how."""
    attention, feed_forward = block.attention, block.feed_forward
    places: dict[str, tuple[Tensor, Divide]] = {}
    # Distances that are projected with the tokens' weights, and gates that read the norm's output, would see
    # other numbers.
    alone = attention.disentangled is None and attention.gate is None
    if block.pre and alone:
        places["attention.qkv"] = attention.qkv.weight, _by_norm(block.attention_norm)
    if attention.disentangled is None:
        places["attention.out"] = attention.out.weight, _by_values(attention)
    if isinstance(feed_forward, FeedForward):
        if block.pre:
            places["feed_forward.up"] = feed_forward.up.weight, _by_norm(block.feed_forward_norm)
        if feed_forward.activation in ("swiglu", "geglu", "relu"):
            places["feed_forward.down"] = feed_forward.down.weight, _by_up(feed_forward)
    return places


def _by_norm(norm: torch.nn.Module) -> Divide:
    def divide(s: Tensor) -> Tensor:
        for parameter in norm.parameters():
            parameter.div_(s.to(parameter.dtype))
        return s

    return divide


def _by_values(attention: SelfAttention) -> Divide:
    """Rows that make values: [H, (q, k, v), E] of the joint projection."""

    def divide(s: Tensor) -> Tensor:
        width = attention.head_dim
        heads = s.view(-1, width)
        attention.qkv.weight.view(-1, 3, width, attention.qkv.in_features)[:, 2].div_(heads[..., None])
        if attention.qkv.bias is not None:
            attention.qkv.bias.view(-1, 3, width)[:, 2].div_(heads)
        if attention.qv_bias is not None:
            attention.qv_bias.view(-1, 2, width)[:, 1].div_(heads)
        return s

    return divide


def _by_up(feed_forward: FeedForward) -> Divide:
    """Rows before ReLU, or those that a gate multiplies: [d_ff, (gate, value)]."""

    def divide(s: Tensor) -> Tensor:
        parts = 1 if feed_forward.activation == "relu" else 2
        up = feed_forward.up
        up.weight.view(-1, parts, up.in_features)[:, -1].div_(s[:, None])
        if up.bias is not None:
            up.bias.view(-1, parts)[:, -1].div_(s)
        return s

    return divide
