"""Steps to a loss as workers grow from 1 to 16, all of them played in one process.

Every worker has a batch of its own in each step, so that W workers see W times as much text. What they
computed is averaged, summed, or joined by Adasum: gradients before a step of SGD, or the steps that their own
Adam made. The learning rate is that of one worker throughout, as the claim has it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.communicating.rank import rows_of
from benchmarks.communicating.ways import VOCAB
from mainspring.comm.adasum import coefficients
from mainspring.data.batch import causal_batch
from mainspring.models.gpt2.config import gpt2
from mainspring.nn import Transformer, initialize

Vector = list[Tensor]
"""Of all parameters."""
RATES = {"SGD": 0.3, "Adam": 2e-3}
SMOOTH = 8
"""Steps whose losses are averaged before they are held against the target."""


@dataclass(frozen=True)
class Race:
    """What is trained, and until when."""

    width: int
    layers: int
    steps: int
    """Steps at most; the target is the loss that one worker reaches after three quarters of them."""


def make(race: Race, seed: int) -> nn.Module:
    """A small model."""
    config = gpt2(race.width, race.layers, 4, vocab_size=VOCAB, max_positions=64)
    return initialize(Transformer(config), seed)


def adasum(vectors: Sequence[Vector]) -> Vector:
    """Neighbours first, layer by layer; whoever has no neighbour goes up as it is."""
    level = [list(vector) for vector in vectors]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        joined = [[_two(a, b) for a, b in zip(x, y, strict=True)] for x, y in pairs]
        level = joined + level[2 * len(joined) :]
    return level[0]


def _two(a: Tensor, b: Tensor) -> Tensor:
    x, y = a.flatten().double(), b.flatten().double()
    of_a, of_b = coefficients(float(x @ y), float(x @ x), float(y @ y))
    return of_a * a + of_b * b


def total(vectors: Sequence[Vector]) -> Vector:
    """Their sum."""
    return [torch.stack(parts).sum(0) for parts in zip(*vectors, strict=True)]


def mean(vectors: Sequence[Vector]) -> Vector:
    """Their mean."""
    return [part / len(vectors) for part in total(vectors)]


WAYS: dict[str, Callable[[Sequence[Vector]], Vector]] = {"mean": mean, "sum": total, "Adasum": adasum}


def losses(
    race: Race, corpus: Tensor, kind: str, way: str, workers: int, seed: int, until: float = -math.inf
) -> list[float]:
    """Mean loss of all workers, step by step; it ends where the running mean is at `until`, or no number."""
    model = make(race, seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizers = [_optimizer(kind, weights) for _ in range(workers)]
    found: list[float] = []
    for step in range(race.steps):
        vectors, here = [], 0.0
        for worker in range(workers):
            rows = rows_of(corpus, step, worker, seed, 2)
            loss = F.cross_entropy(
                model(causal_batch(rows[:, :-1])).logits.flatten(0, 1), rows[:, 1:].flatten()
            )
            gradients = torch.autograd.grad(loss, weights)
            vectors.append(
                list(gradients) if kind == "SGD" else _delta(optimizers[worker], weights, gradients)
            )
            here += float(loss.detach()) / workers
        found.append(here)
        if math.isnan(here) or statistics.mean(found[-SMOOTH:]) <= until:
            return found
        _apply(kind, weights, WAYS[way](vectors))
    return found


def _optimizer(kind: str, weights: list[nn.Parameter]) -> torch.optim.Optimizer | None:
    return None if kind == "SGD" else torch.optim.AdamW(weights, lr=RATES[kind], weight_decay=0.0)


@torch.no_grad()
def _delta(
    optimizer: torch.optim.Optimizer | None, weights: list[nn.Parameter], gradients: Sequence[Tensor]
) -> Vector:
    """The step that a worker's own Adam would make; the weights are as they were."""
    assert optimizer is not None
    before = [w.clone() for w in weights]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimizer.step()
    moved = [w - was for w, was in zip(weights, before, strict=True)]
    for weight, was in zip(weights, before, strict=True):
        weight.copy_(was)
        weight.grad = None
    return moved


@torch.no_grad()
def _apply(kind: str, weights: list[nn.Parameter], joined: Vector) -> None:
    for weight, part in zip(weights, joined, strict=True):
        weight.add_(part, alpha=-RATES[kind] if kind == "SGD" else 1.0)
