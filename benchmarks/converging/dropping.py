"""Loss against time with and without progressive layer dropping: a pre-norm model over bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.communicating.ways import VOCAB
from mainspring.data.batch import causal_batch
from mainspring.models.gpt2.config import gpt2
from mainspring.nn import Transformer, initialize
from mainspring.train.layer_drop import LayerDropConfig, set_gates

ROWS, SEQ, LR = 4, 64, 1e-3


@dataclass(frozen=True)
class Run:
    """What is trained, and how often its loss on held-out text is looked at."""

    width: int
    layers: int
    steps: int
    looks: int


def curve(run: Run, corpus: Tensor, dropped: bool, seed: int) -> list[tuple[float, float]]:
    """Seconds of training so far and the held-out loss, at every look."""
    config = gpt2(run.width, run.layers, 4, vocab_size=VOCAB, max_positions=SEQ)
    model = initialize(Transformer(config), seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    cut = len(corpus) * 9 // 10
    draw = torch.Generator().manual_seed(seed)
    held = rows(corpus[cut:], 32, torch.Generator().manual_seed(0))
    spent, seen = 0.0, []
    for step in range(run.steps):
        batch = rows(corpus[:cut], ROWS, draw)
        began = time.perf_counter()
        if dropped:
            set_gates(model, LayerDropConfig(), seed, step, run.steps)
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, batch).backward()
        optimizer.step()
        spent += time.perf_counter() - began
        if (step + 1) % (run.steps // run.looks) == 0:
            model.eval()
            with torch.no_grad():
                seen.append((spent, float(loss_of(model, held))))
            model.train()
    return seen


def rows(corpus: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Stretches of SEQ + 1 bytes."""
    starts = torch.randint(0, len(corpus) - SEQ - 1, (count,), generator=draw)
    return corpus[starts[:, None] + torch.arange(SEQ + 1)].long()


def loss_of(model: Transformer, batch: Tensor) -> Tensor:
    """Of the next bytes."""
    logits = model(causal_batch(batch[:, :-1])).logits
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def seconds_to(curve: list[tuple[float, float]], target: float) -> float:
    """When the loss was first at the target, between looks along a line; infinite where it never was."""
    before: tuple[float, float] | None = None
    for seconds, loss in curve:
        if loss <= target:
            if before is None or before[1] == loss:
                return seconds
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (seconds - before[0])
        before = seconds, loss
    return float("inf")
