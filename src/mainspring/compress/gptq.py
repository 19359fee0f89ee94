"""Rounding a weight matrix so that its products with given inputs change least.

Frantar et al. 2022 (GPTQ, arXiv 2210.17323), section 3 and algorithm 1, after Hassibi and Stork 1993 (Optimal
Brain Surgeon): columns are rounded one after another, and what each one's rounding does to the products is
made up for, as well as can be, by the columns that are still free. With the Cholesky factor U of the inverse
Hessian (upper triangular) the free columns move by -(w - q) / U[j, j] * U[j, j+1:]; updates of far columns
are done a block at a time. Scales of a box are those of its columns as they stand when it is reached.

Legend: N rows (outputs), K columns (inputs), G boxes of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.numerics import Encoded, Format


class Rounded(NamedTuple):
    """A weight matrix in a format."""

    encoded: Encoded
    """Its bytes."""
    values: Tensor
    """What they say, fp32 [N, K]."""
    error: Tensor
    """Mean squared change of each row's products with the inputs that were seen, fp64 [N]."""


def round_to_nearest(weight: Tensor, form: Format, hessian: Tensor | None = None) -> Rounded:
    """Each element to the nearest value; with a `hessian` [K, K] (mean of x x^T) the error is told."""
    encoded = form.encode(weight)
    values = form.decode(encoded)
    return Rounded(encoded, values, change_of(weight, values, hessian))


@torch.no_grad()
def gptq(
    weight: Tensor, hessian: Tensor, form: Format, *, damping: float = 0.01, block: int = 128
) -> Rounded:
    """Round columns one after another, each making up for those before; never worse than to the nearest.

    Rows do not depend on one another, so that a row whose error would be larger than rounded to the nearest
    (where the damping or a box's scale costs more than the making up gives) is rounded to the nearest.

    Args:
        weight: [N, K].
        hessian: mean of x x^T over inputs x that were seen, [K, K].
        form: number format, boxes along K.
        damping: share of the mean diagonal that is added to the diagonal.
        block: columns whose updates of later ones are done together.

    Raises:
        UsageError: the Hessian has another shape or is not finite.
    """
    rows, columns = weight.shape
    if hessian.shape != (columns, columns) or not bool(hessian.isfinite().all()):
        raise UsageError(
            f"inputs of {columns} columns have a finite Hessian of {columns} x {columns}; got "
            f"{list(hessian.shape)}: calibrate with text on which the model's activations are finite"
        )
    nearest = round_to_nearest(weight, form, hessian)
    factor = _inverse_factor(hessian.double(), damping)
    free = weight.detach().double().clone()
    width = form.box or columns
    block = -(-max(block, width) // width) * width if form.box else block
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=weight.device)
    scales: list[Tensor] = []
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        moved = torch.empty(rows, stop - start, dtype=free.dtype, device=weight.device)
        for j in range(start, stop):
            if j % width == 0:
                scales.append(form.scales(free[:, j : j + width].float()))
            column = free[:, j : j + 1]
            codes[:, j : j + 1] = code = form.codes(column.float(), scales[-1], "nearest", None)
            step = (column - form.values(code, scales[-1])) / factor[j, j]
            moved[:, j - start : j - start + 1] = step
            free[:, j:stop] -= step * factor[j, j:stop]
        free[:, stop:] -= moved @ factor[start:stop, stop:]
    encoded = form.join(codes, torch.cat(scales, 1))
    values = form.decode(encoded)
    error = change_of(weight, values, hessian)
    worse = ~(error < nearest.error)
    if worse.any():
        codes = torch.where(worse[:, None], _codes(weight, form), codes)
        chosen = torch.where(worse[:, None], nearest.encoded.scales.view(rows, -1), torch.cat(scales, 1))
        encoded = form.join(codes, chosen)
        values, error = form.decode(encoded), torch.where(worse, nearest.error, error)
    return Rounded(encoded, values, error)


def _codes(weight: Tensor, form: Format) -> Tensor:
    """Codes of a matrix rounded to the nearest, uint8 [N, K]."""
    rows, columns = weight.shape
    width = form.box or columns
    boxes = torch.nn.functional.pad(weight.detach().float(), (0, -columns % width)).reshape(-1, width)
    return form.codes(boxes, form.scales(boxes), "nearest", None).view(rows, -1)[:, :columns]


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U with U^T U = (H + damping)^-1, upper triangular, fp64 [K, K]."""
    diagonal = hessian.diagonal()
    mean = diagonal.mean().clamp(min=torch.finfo(torch.float64).tiny)
    # An input that is always 0 leaves its column free to be anything: it is rounded by itself.
    extra = torch.where(diagonal == 0, mean, damping * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian + torch.diag(extra)))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def change_of(weight: Tensor, values: Tensor, hessian: Tensor | None) -> Tensor:
    """Mean squared change of each row's products with inputs of a Hessian, or of its elements: fp64 [N]."""
    change = (values - weight.detach()).double()
    if hessian is None:
        return change.square().mean(1)
    return ((change @ hessian.double()) * change).sum(1)
