"""Block layouts as pure functions: which block of tokens may see which.

Block i is the tokens at positions i * block to (i + 1) * block - 1. A layout is made for all the blocks that
a model has positions for; a shorter row has its upper left corner, so that what a token sees does not depend
on how long its row was padded.

A unidirectional layout is lower triangular. DeepSpeed's leaves random blocks and representatives above the
diagonal, where a causal mask forbids them; here random blocks of a row are drawn from those not after it.

Legend: H heads, N blocks, h a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mainspring.config import Section
from mainspring.nn.sparse.config import BigBird, BSLongformer, Fixed, SlidingWindow, SparseAttention, Variable

Blocks = NDArray[np.bool_]


def layout_of(config: SparseAttention, heads: int, blocks: int) -> Tensor:
    """The layout, on the CPU whatever the default device is.

    Args:
        config: which.
        heads: H.
        blocks: N, of the longest row.

    Returns:
        bool [H, N, N], [1, N, N] where all heads have one: [h, i, j] says whether block i sees block j.

    >>> from mainspring.nn.sparse import SlidingWindow
    >>> layout_of(SlidingWindow(attention="unidirectional"), 1, 3)[0].int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """
    draw = _LAYOUTS[type(config)]
    each = [draw(config, head, blocks) for head in range(heads if config.patterns_differ else 1)]
    layout = np.stack(each)
    return torch.from_numpy(np.tril(layout) if config.attention == "unidirectional" else layout)


def _empty(blocks: int) -> Blocks:
    return np.zeros((blocks, blocks), dtype=np.bool_)


def _fixed(config: Fixed, head: int, blocks: int) -> Blocks:
    layout = _empty(blocks)
    _add_windows(layout, (config.local_blocks,))
    width, count = config.local_blocks, config.global_blocks
    first = width - (1 + head % config.global_patterns) * count
    for window in range(0, blocks, width):
        # Of a last window that is cut short the last blocks stand in.
        start = max(0, min(window + first, blocks - count))
        _add_global(layout, start, start + count, config.attention == "bidirectional", config.horizontal)
    return layout


def _variable(config: Variable, head: int, blocks: int) -> Blocks:
    layout = _empty(blocks)
    _add_windows(layout, config.local_windows)
    for start, end in _runs(config.global_blocks, config.global_ends):
        _add_global(layout, start, end, config.attention == "bidirectional", config.horizontal)
    _add_random(layout, config, head)
    return layout


def _bigbird(config: BigBird, head: int, blocks: int) -> Blocks:
    layout = _sliding(blocks, config.window_blocks)
    _add_global(layout, 0, config.global_blocks, True, True)
    _add_random(layout, config, head)
    return layout


def _longformer(config: BSLongformer, head: int, blocks: int) -> Blocks:
    layout = _sliding(blocks, config.window_blocks)
    for start, end in _runs(config.global_blocks, config.global_ends):
        _add_global(layout, start, end, True, True)
    return layout


def _window(config: SlidingWindow, head: int, blocks: int) -> Blocks:
    return _sliding(blocks, config.window_blocks)


_LAYOUTS: dict[type[Section], Callable[[Any, int, int], Blocks]] = {
    Fixed: _fixed,
    Variable: _variable,
    BigBird: _bigbird,
    BSLongformer: _longformer,
    SlidingWindow: _window,
}


def _sliding(blocks: int, window: int) -> Blocks:
    """Blocks not farther apart than half a window."""
    index = np.arange(blocks)
    near: Blocks = np.abs(index[:, None] - index) <= window // 2
    return near


def _add_windows(layout: Blocks, sizes: tuple[int, ...]) -> None:
    """Windows side by side, whose blocks see one another; the last size repeats."""
    start, number = 0, 0
    while start < layout.shape[0]:
        size = sizes[min(number, len(sizes) - 1)]
        layout[start : start + size, start : start + size] = True
        start, number = start + size, number + 1


def _add_global(layout: Blocks, start: int, end: int, all_rows: bool, horizontal: bool) -> None:
    """Blocks that all see (else: those from `start` on), and with `horizontal` that see all."""
    layout[0 if all_rows else start :, start:end] = True
    if horizontal:
        layout[start:end] = True


def _runs(starts: tuple[int, ...], ends: tuple[int, ...] | None) -> list[tuple[int, int]]:
    return list(zip(starts, ends or [start + 1 for start in starts], strict=True))


def _add_random(layout: Blocks, config: Variable | BigBird, head: int) -> None:
    """Random blocks for each row, which does not depend on how many rows there are after it."""
    for row in range(layout.shape[0] if config.random_blocks else 0):
        among = row + 1 if config.attention == "unidirectional" else layout.shape[0]
        rng = np.random.default_rng([config.seed, head, row])
        chosen = rng.choice(among, min(config.random_blocks, among), replace=False)
        layout[row, chosen] = True
