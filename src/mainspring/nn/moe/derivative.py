"""A feed-forward's activations and their derivatives, where autograd does not run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.nn.config import Activation
from mainspring.nn.feed_forward import activate

aten = torch.ops.aten


def activation_of(kind: Activation, inner: Sequence[Tensor]) -> Tensor:
    """The activation of what an expert's first maps give, each [N, d_ff]: one, or gate and value."""
    active = activate(kind)(inner[0])
    return active if len(inner) == 1 else active * inner[1]


def differentiate_activation(kind: Activation, inner: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Gradients by each of `inner` from that by the activation's output, all [N, d_ff]."""
    if len(inner) == 1:
        return [_pointwise(kind, inner[0], grad)]
    gate, value = inner
    return [_pointwise(kind, gate, grad * value), grad * activate(kind)(gate)]


def _pointwise(kind: Activation, x: Tensor, grad: Tensor) -> Tensor:
    result: Tensor
    match kind:
        case "relu":
            result = aten.threshold_backward(grad, x, 0)
        case "gelu":
            result = aten.gelu_backward(grad, x)
        case "gelu_tanh" | "geglu":
            result = aten.gelu_backward(grad, x, approximate="tanh")
        case "swiglu":
            result = aten.silu_backward(grad, x)
    return result
