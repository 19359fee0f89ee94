"""Products of many pairs of matrices; large ones in fp32 go through oneDNN one by one where it is ahead of
MKL (nn.linear)."""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.nn.linear import WIDE

SMALLEST = 1 << 22
"""Multiplications of a pair from which going one by one is worth it."""


def one_at_a_time(x: Tensor) -> bool:
    """Whether oneDNN is faster for products of the tensor's kind; it takes one pair at a time."""
    return WIDE and x.dtype == torch.float32 and x.device.type == "cpu" and bool(torch._C._has_mkldnn)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a [N, M, K] times the transpose of b [N, L, K], contiguous [N, M, L]; it has no gradient."""
    if not one_at_a_time(a) or a[0].numel() * b.shape[1] < SMALLEST:
        return torch.bmm(a, b.transpose(1, 2))
    if a.shape[0] == 1:
        return _product(a[0], b[0])[None]
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[1])
    for result, left, right in zip(out, a, b, strict=True):
        result.copy_(_product(left, right))
    return out


def _product(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return product
