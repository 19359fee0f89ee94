"""Position schemes over position data: rotary angles and T5's buckets of distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mainspring.nn.config import Rotary, T5Bias
from mainspring.nn.lookup import Embedding
from mainspring.nn.peers import ALONE, Along, Peers


def sinusoids(pos: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """A wave for each position: sines in the first half of the width, cosines in the second.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, in the order and with the wavelengths
    (10000^(i / (width/2 - 1))) of tensor2tensor and fairseq, whose checkpoints are published.

    Args:
        pos: positions, int64 [B or 1, T].

    Returns:
        [B or 1, T, width].
    """
    half = width // 2
    rate = torch.exp(
        torch.arange(half, device=pos.device, dtype=torch.float32) * -(math.log(10000.0) / (half - 1))
    )
    angle = pos[..., None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)


class Angles(NamedTuple):
    """Cosine and sine of the rotary angles, each float32 [B or 1, T, 1, head_dim]."""

    cos: Tensor
    sin: Tensor


def rotary_angles(pos: Tensor, head_dim: int, config: Rotary) -> Angles:
    """Angles of each token: position * base^(-2i/head_dim) for the pair of elements i, i + head_dim/2.

    Source: Su et al. 2021 (arXiv 2104.09864), equation 15, with the pairing that published checkpoints use.

    Args:
        pos: positions, int64 [B or 1, T].
    """
    exponent = torch.arange(0, head_dim, 2, device=pos.device, dtype=torch.float32) / head_dim
    angle = pos[..., None].float() * config.base**-exponent
    angle = torch.cat([angle, angle], dim=-1)[:, :, None, :]
    return Angles(angle.cos(), angle.sin())


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn queries or keys by their tokens' angles. x [B, T, heads, head_dim] -> the same shape and dtype."""
    left, right = x.chunk(2, dim=-1)
    turned = torch.cat([-right, left], dim=-1)
    return (x * angles.cos + turned * angles.sin).to(x.dtype)


def tiled(table: Tensor, rows: int, offset: int = 0) -> Tensor:
    """A learned table of positions made longer by repeating it (Beltagy et al. 2020, arXiv 2004.05150, 5).

    Near positions keep the differences that the model has learnt.

    Args:
        table: [offset + P, D].
        rows: offset + the positions wanted.
        offset: rows before position 0, which are not repeated.

    Returns:
        [rows, D].

    >>> tiled(torch.tensor([[9], [1], [2]]), 6, offset=1).flatten().tolist()
    [9, 1, 2, 1, 2, 1]
    """
    index = torch.arange(rows - offset, device=table.device) % (table.shape[0] - offset)
    return torch.cat([table[:offset], table[offset:][index]])


def relative_bucket(distance: Tensor, config: T5Bias, bidirectional: bool) -> Tensor:
    """Bucket of a distance (key position minus query position): exact when near, logarithmic when far.

    Source: Raffel et al. 2020 (arXiv 1910.10683), section 2.1. Half of a side's buckets hold one distance
    each, the rest grow to `max_distance`; beyond it all share the last.

    Args:
        distance: int64, any shape.
        bidirectional: give keys after the query the upper half of the buckets; else they count as distance 0.

    Returns:
        int64 in [0, buckets), the shape of `distance`.
    """
    buckets, offset = config.buckets, torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        away = distance.abs()
    else:
        away = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(away.clamp(min=1).float() / exact) / math.log(config.max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(away < exact, away, far)


class RelativeBias(nn.Module):
    """A learned attention score for each bucket of distance and head."""

    def __init__(self, config: T5Bias, heads: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.peers: Peers = ALONE
        self.config = config
        self.bidirectional = bidirectional
        self.table = Embedding(config.buckets, heads)

    @property
    def cuts(self) -> Mapping[str, Along]:
        """By heads."""
        return {"table.weight": Along(1, self.table.embedding_dim, "heads")}

    def forward(self, pos_q: Tensor, pos_k: Tensor, mask: Tensor | None) -> Tensor:
        """Scores to add to query-key products.

        Args:
            pos_q: positions of the queries, int64 [B or 1, Tq].
            pos_k: positions of the keys, int64 [B or 1, Tk].
            mask: bool, broadcastable to [B, 1, Tq, Tk]; where it is False the score is minus infinity.

        Returns:
            [B or 1, heads, Tq, Tk].
        """
        distance = pos_k[:, None, :] - pos_q[:, :, None]
        scores: Tensor = self.table(relative_bucket(distance, self.config, self.bidirectional)).permute(
            0, 3, 1, 2
        )
        return scores if mask is None else scores.masked_fill(~mask, -math.inf)

    def parts(self, pos: Tensor, lead: int, shared: bool, largest: int) -> tuple[Tensor, Tensor]:
        """Scores of the first `lead` tokens C with one another, and of the rest A with all T of them.

        Where C are at the same positions in every row, the scores of a position with C are looked up once
        and copied to the tokens that stand there, in place of a look-up for each pair of each row.

        Args:
            pos: positions, int64 [B or 1, T], from 0.
            lead: number of tokens C.
            shared: whether C are at the same positions in every row.
            largest: the largest position.

        Returns:
            [B or 1, heads, C, C] and [B or 1, heads, A, T].
        """
        first, rest = pos[:, :lead], pos[:, lead:]
        if not shared or largest >= 2 * lead:
            return self(first, first, None), self(rest, pos, None)
        every = torch.arange(largest + 1, device=pos.device)[None]
        rows = self(every, first[:1], None)[0].contiguous()
        near = rows.index_select(1, rest.flatten()).unflatten(1, rest.shape).transpose(0, 1)
        return rows.index_select(1, first[0])[None], torch.cat([near, self(rest, rest, None)], dim=-1)
