"""Rows of a large table, with a gradient whose untouched pages cost nothing.

A batch names few rows of a vocabulary, yet the gradient is of the whole table: PyTorch writes zeros over it,
page by page as the system hands them out, which at 128,100 words takes longer on a CPU than a layer's
backward. Memory that the system has zeroed already (numpy's, in huge pages where it has those) needs no
writing but of the rows named: 11 ms of processor time in place of 83 for 128,100 x 768 in bf16, and 23 in
place of 91 where all of it is then read and written (AMD EPYC). Repeated rows are summed in fp32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.nn.linear import linear

SMALLEST = 1 << 23
"""Bytes of a table from which this is worth it."""


class Embedding(nn.Embedding):
    """torch's embedding; on the meta device, where drawing loads a compiler for seconds, nothing is drawn."""

    def reset_parameters(self) -> None:
        """Draw, as torch does."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Table(Embedding):
    """torch's embedding with `lookup` for its forward, and products with its rows."""

    def forward(self, input: Tensor) -> Tensor:
        """input [...], int64 -> [..., D]."""
        return lookup(self.weight, input)

    def scores(self, hidden: Tensor, count: int, bias: Tensor | None) -> Tensor:
        """Products with the first `count` rows: hidden [..., D], bias [count] -> [..., count]."""
        rows = self.weight if self.weight.shape[0] <= count else self.weight[:count]
        return linear(hidden, rows, bias)


def lookup(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table, as `torch.nn.functional.embedding`.

    Args:
        table: [V, D].
        ids: int64, any shape, in [0, V).

    Returns:
        [..., D].
    """
    # Subclasses (sharded, fake) know torch's own operators only.
    plain = all(type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" for t in (table, ids))
    if plain and table.numel() * table.element_size() >= SMALLEST and torch.is_grad_enabled():
        rows: Tensor = _rows(table, ids)
        return rows
    return F.embedding(ids, table)


@torch.library.custom_op("mainspring::rows", mutates_args=())
def _rows(table: Tensor, ids: Tensor) -> Tensor:
    return F.embedding(ids, table)


@torch.library.custom_op("mainspring::rows_gradient", mutates_args=())
def _rows_gradient(grad: Tensor, ids: Tensor, count: int) -> Tensor:
    """Sums of the rows of grad [..., D] by ids [...]: [count, D]."""
    width = grad.shape[-1] * grad.element_size()
    out = torch.from_numpy(np.zeros((count, width), np.uint8)).view(grad.dtype)
    named, where = torch.unique(ids, return_inverse=True)
    wide = grad.float() if grad.element_size() < 4 else grad
    sums = torch.ops.aten.embedding_dense_backward(wide, where, len(named), -1, False)
    return out.index_copy_(0, named, sums.to(grad.dtype))


@_rows.register_fake
def _(table: Tensor, ids: Tensor) -> Tensor:
    return table.new_empty(*ids.shape, table.shape[1])


@_rows_gradient.register_fake
def _(grad: Tensor, ids: Tensor, count: int) -> Tensor:
    return grad.new_empty(count, grad.shape[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, ids = inputs
    ctx.save_for_backward(ids)
    ctx.count = table.shape[0]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (ids,) = ctx.saved_tensors
    return _rows_gradient(grad, ids, ctx.count), None


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _differentiate_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (ids,) = ctx.saved_tensors
    return _rows(grad, ids), None, None


_rows.register_autograd(_differentiate, setup_context=_keep)
_rows_gradient.register_autograd(_differentiate_gradient, setup_context=_keep_gradient)
