"""Derivatives of a feed-forward's activations, where autograd does not run."""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.nn.config import Activation
from mainspring.nn.feed_forward import activate

aten = torch.ops.aten


def differentiate_activation(kind: Activation, inner: Tensor, grad: Tensor) -> Tensor:
    """Gradient by `inner` [N, inner] from that by the activation's output [N, d_ff]."""
    if kind not in ("swiglu", "geglu"):
        return _pointwise(kind, inner, grad)
    gate, value = inner.view(*inner.shape[:-1], inner.shape[-1] // 2, 2).unbind(-1)
    both = (_pointwise(kind, gate, grad * value), grad * activate(kind)(gate))
    return torch.stack(both, dim=-1).flatten(1)


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
