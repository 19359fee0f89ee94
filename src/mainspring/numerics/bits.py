"""Codes of a few bits, joined in bytes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Join codes, the first in the lowest bits of the first byte.

    Args:
        codes: uint8 [N], each below 2^bits.
        bits: 1 to 8.

    Returns:
        uint8 [ceil(N bits / 8)].

    >>> pack_bits(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist()
    [33, 3]
    """
    if bits == 8:
        return codes.clone()
    many, bytes_ = _group(bits)
    padded = torch.zeros(-(-len(codes) // many) * many, dtype=torch.int64, device=codes.device)
    padded[: len(codes)] = codes
    places = torch.arange(many, device=codes.device) * bits
    joined = (padded.view(-1, many) << places).sum(1)
    parts = (joined[:, None] >> torch.arange(bytes_, device=codes.device) * 8) & 0xFF
    return parts.to(torch.uint8).flatten()[: -(-len(codes) * bits // 8)]


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """What `pack_bits` joined: uint8 [count]."""
    if bits == 8:
        return packed.clone()
    many, bytes_ = _group(bits)
    padded = torch.zeros(-(-len(packed) // bytes_) * bytes_, dtype=torch.int64, device=packed.device)
    padded[: len(packed)] = packed
    joined = (padded.view(-1, bytes_) << torch.arange(bytes_, device=packed.device) * 8).sum(1)
    codes = (joined[:, None] >> torch.arange(many, device=packed.device) * bits) & ((1 << bits) - 1)
    return codes.to(torch.uint8).flatten()[:count]


def _group(bits: int) -> tuple[int, int]:
    """Codes that fill whole bytes, and these bytes."""
    whole = math.lcm(bits, 8)
    return whole // bits, whole // 8
