"""What is compared: the same queries, keys and values through several kinds of attention."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.data.batch import TokenBatch, causal_batch
from mainspring.nn.masks import inspect
from mainspring.nn.sparse import BSLongformer, Tiles, gathered_attention, layout_of, plan_tiles
from mainspring.nn.sparse.sight import sparse_mask
from mainspring.optim.pages import trim

BLOCK, WIDTH = 64, 64
LAYOUT = BSLongformer(
    block=BLOCK, window_blocks=7, global_blocks=(0,), global_ends=(2,), attention="unidirectional"
)
"""Local and global: a token sees its block and the three before it (193 to 256 tokens), and the first 128."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A row of so many tokens and heads."""

    length: int
    heads: int

    @property
    def batch(self) -> TokenBatch:
        """Causal text."""
        return causal_batch(torch.zeros((1, self.length), dtype=torch.int64))

    @property
    def layout(self) -> Tensor:
        """bool [1, N, N]."""
        return layout_of(LAYOUT, self.heads, self.length // BLOCK)

    def tiles(self) -> Tiles:
        """What our attention computes."""
        return plan_tiles(self.batch, self.layout, BLOCK, inspect(self.batch))

    def sides(self) -> dict[str, Attend]:
        """By name: ours, PyTorch's causal kernel (which sees all tokens before), PyTorch's with our mask."""
        tiles = self.tiles()
        mask = sparse_mask(self.batch, None, self.layout, BLOCK)
        return {
            "sparse": lambda q, k, v: gathered_attention(q, k, v, tiles),
            "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            "masked": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        }

    def operands(self) -> list[Tensor]:
        """Queries, keys, values and a gradient, [1, H, T, E] in memory [1, T, H, E]."""
        draw = torch.Generator().manual_seed(0)
        shape = (1, self.length, self.heads, WIDTH)
        return [torch.randn(shape, generator=draw).transpose(1, 2) for _ in range(4)]


def gradients(attend: Attend, operands: list[Tensor]) -> list[Tensor]:
    """Forward and backward: what it gives, and its gradients."""
    *leaves, push = operands
    leaves = [t.detach().requires_grad_() for t in leaves]
    out = attend(*leaves)
    out.backward(push)
    return [out.detach(), *(t.grad for t in leaves if t.grad is not None)]


def seconds(attend: Attend, operands: list[Tensor]) -> float:
    """Of a forward with its backward."""
    started = time.perf_counter()
    gradients(attend, operands)
    return time.perf_counter() - started


def peak_bytes(run: Callable[[], object]) -> int:
    """Most memory that this process had resident while something ran, over what it had before (Linux)."""
    trim()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))
