"""The update without a compiler: torch's fused kernel over blocks that stay in cache, or the plain source.

The fused kernel wants gradients in the dtype of the weights and writes no copies. Around it, a block of a
run at a time: the gradient is cast to a small buffer, the block updated, its copy written while the block is
still in the cache. On two cores that took 15 % more time than the compiled pass, on one 3 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mainspring.optim.runs import Entry
from mainspring.optim.update import FORMULAS, Formula, Kind, Numbers, run

BLOCK = 2**19
"""Elements of a block on a CPU: shorter ones cost calls, longer ones leave the cache."""


def step_all(
    entries: Sequence[Entry],
    kind: Kind,
    numbers: Numbers,
    lr: float,
    weight_decay: float,
    bias_correction: bool = True,
) -> None:
    """Update entries of one device, dtype, kind and step number.

    Args:
        entries: equal in `Entry.kind`.
        kind: of update.
        numbers: of this step; `update.run` alone needs no more.
        lr: learning rate, and
        weight_decay: as the settings have it, for torch's kernel.
        bias_correction: whether moments are corrected, for torch's kernel.
    """
    first = entries[0]
    formula = FORMULAS[kind]
    fused = kind in ("adam", "adamw") and first.p.device.type in ("cpu", "cuda")
    if not (fused and first.p.is_floating_point()):
        for block in _blocks(entries):
            _plain_step(formula, block, numbers)
        return
    if first.g.dtype == first.p.dtype and numbers.scale == 1:
        # Nothing to cast: the kernel has the whole list at once.
        _fused(entries, [e.g for e in entries], kind, numbers, lr, weight_decay, bias_correction)
        for entry in entries:
            if entry.out is not None:
                entry.out.copy_(entry.p)
        return
    scratch = first.p.new_empty(_limit(entries))
    for batch in _batches(_blocks(entries), scratch.numel()):
        gradients, used = [], 0
        for entry in batch:
            room = scratch[used : used + entry.p.numel()]
            gradients.append(room.copy_(entry.g))
            used += entry.p.numel()
        if numbers.scale != 1:
            scratch[:used].mul_(numbers.scale)
        _fused(batch, gradients, kind, numbers, lr, weight_decay, bias_correction)
        for entry in batch:
            if entry.out is not None:
                entry.out.copy_(entry.p)


def _plain_step(formula: Formula, entry: Entry, numbers: Numbers) -> None:
    h = numbers.as_tensor(entry.p.device).to(entry.p.dtype)
    run(formula, entry.p, entry.m, entry.v, entry.g, entry.out, h)


def _fused(
    entries: Sequence[Entry],
    gradients: list[Tensor],
    kind: Kind,
    numbers: Numbers,
    lr: float,
    weight_decay: float,
    bias_correction: bool,
) -> None:
    kernel = torch._fused_adam_ if kind == "adam" else torch._fused_adamw_
    # After so many steps that the powers of betas are 0 nothing is left to correct.
    count = float(entries[0].step) if bias_correction else float("inf")
    step = torch.tensor(count, device=entries[0].p.device)
    kernel(
        [e.p for e in entries],
        gradients,
        [e.m for e in entries],
        [e.v for e in entries],
        [],
        [step] * len(entries),
        lr=lr,
        beta1=1 - numbers.lerp,
        beta2=numbers.beta2,
        weight_decay=weight_decay,
        eps=numbers.eps,
        amsgrad=False,
        maximize=False,
    )


def _limit(entries: Sequence[Entry]) -> int:
    """Elements of a block: bounded by the cache on a CPU; a GPU's calls are dear and its memory is fast."""
    longest = sum(entry.p.numel() for entry in entries)
    return min(longest, BLOCK if entries[0].p.device.type == "cpu" else 32 * BLOCK)


def _blocks(entries: Sequence[Entry]) -> list[Entry]:
    limit = _limit(entries)
    blocks = []
    for entry in entries:
        if entry.p.numel() <= limit:
            blocks.append(entry)
            continue
        cuts = [torch.split(tensor, limit) for tensor in entry.tensors]
        for p, m, v, g, *out in zip(*cuts, strict=True):
            blocks.append(replace(entry, p=p, m=m, v=v, g=g, out=out[0] if out else None))
    return blocks


def _batches(blocks: Sequence[Entry], limit: int) -> list[list[Entry]]:
    """Small blocks together, up to `limit` elements."""
    batches: list[list[Entry]] = []
    size = limit
    for block in blocks:
        if size + block.p.numel() > limit:
            batches.append([])
            size = 0
        batches[-1].append(block)
        size += block.p.numel()
    return batches
