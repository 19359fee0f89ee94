"""Weights as integers with scales, in the layouts that all kernels read: int8 by rows, int4 by groups.

Rows are as long as the layer is wide, filled up with zeros to whole blocks of 64. An int8 row is plain. A
block of an int4 row is 32 bytes: byte j holds element j in its low half and element j + 32 in its high half,
each plus 8, so that a kernel has two runs of 32 neighbours after one shift. Files hold these very bytes.

Legend: N rows (outputs), K columns (inputs), P columns filled up, B = P / 64 blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.numerics import Integers

BLOCK = 64
"""Columns that are filled up to, and that int4 scales and activations of int4 layers go by."""


def padded(columns: int) -> int:
    """Columns filled up to whole blocks."""
    return -(-columns // BLOCK) * BLOCK


def fill(values: Tensor) -> Tensor:
    """[..., K] with zeros to [..., P]."""
    more = -values.shape[-1] % BLOCK
    return F.pad(values, (0, more)) if more else values


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale a row: weight [N, K] -> int8 [N, P], fp32 [N]; on meta, shapes alone."""
    if weight.is_meta:  # arithmetic there loads a compiler, for seconds
        rows, columns = weight.shape
        values = weight.new_empty(rows, padded(columns), dtype=torch.int8)
        return values, weight.new_empty(rows, dtype=torch.float32)
    encoded = Integers(8).encode(weight)
    return fill(encoded.codes.view(torch.int8).view(weight.shape)).contiguous(), encoded.scales


def round_to_int4(weight: Tensor, group: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Symmetric int4 with one scale a group of columns: [N, K] -> packed uint8 [N, P / 2], fp32 [N, B].

    Args:
        weight: [N, K].
        group: columns that share a scale, a multiple of 64.

    Raises:
        UsageError: there is no such group.
    """
    check_group(group)
    rows, columns = weight.shape
    if weight.is_meta:  # the shapes alone
        packed = weight.new_empty(rows, padded(columns) // 2, dtype=torch.uint8)
        return packed, weight.new_empty(rows, padded(columns) // BLOCK, dtype=torch.float32)
    groups = F.pad(weight.detach().float(), (0, -columns % group)).view(-1, group)
    scales = _best_scales(groups)
    values = (groups / torch.where(scales > 0, scales, 1.0)).round().clamp(-7, 7).to(torch.int8)
    values = values.view(rows, -1)[:, :columns]
    spread = scales.view(rows, -1).repeat_interleave(group // BLOCK, 1)[:, : padded(columns) // BLOCK]
    return pack_int4(fill(values)), spread.contiguous()


def check_group(group: int) -> None:
    """Raises UsageError for a group that blocks do not make up."""
    if group < BLOCK or group % BLOCK:
        near = max(BLOCK, round(group / BLOCK) * BLOCK)
        raise UsageError(
            f"int4 group = {group}: a multiple of {BLOCK} is needed; nearest legal value: {near}"
        )


def pack_int4(values: Tensor) -> Tensor:
    """Integers of -8 to 7, int8 [N, P] -> uint8 [N, P / 2]."""
    low, high = (values + 8).to(torch.uint8).view(len(values), -1, 2, BLOCK // 2).unbind(2)
    return (low | high << 4).flatten(1)


def unpack_int4(packed: Tensor) -> Tensor:
    """What `pack_int4` packed: int8 [N, P]."""
    blocks = packed.view(len(packed), -1, BLOCK // 2)
    both = torch.stack([blocks & 15, blocks >> 4], dim=2)
    return both.flatten(1).to(torch.int8) - 8


def _best_scales(groups: Tensor) -> Tensor:
    """Of nine scales from max / 7 down to 0.7 of it, each group's with the least squared error: [G, 1]."""
    largest = groups.abs().amax(-1, keepdim=True) / 7
    best, least = largest, torch.full_like(largest, torch.inf)
    for step in range(9):
        scale = largest * (1 - step * 0.0375)
        usable = torch.where(scale > 0, scale, 1.0)
        error = ((groups / usable).round().clamp(-7, 7) * usable - groups).square().sum(-1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
