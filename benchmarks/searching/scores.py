"""Scores of rankings by query, and whether one ranking is better than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.searching.collections import Collection

Runs = Mapping[str, Sequence[str]]
"""Documents for each query, the best first."""


def ndcg(run: Sequence[str], relevant: frozenset[str], depth: int = 10) -> float:
    """Normalised discounted cumulative gain of binary judgements."""
    gain = sum(1 / math.log2(i + 2) for i, document in enumerate(run[:depth]) if document in relevant)
    return gain / sum(1 / math.log2(i + 2) for i in range(min(depth, len(relevant))))


def average_precision(run: Sequence[str], relevant: frozenset[str]) -> float:
    """Mean of the precisions at each relevant document."""
    found, total = 0, 0.0
    for i, document in enumerate(run, 1):
        if document in relevant:
            found += 1
            total += found / i
    return total / len(relevant)


def recall(run: Sequence[str], relevant: frozenset[str], depth: int = 50) -> float:
    """Share of the relevant documents among the first."""
    return len(relevant.intersection(run[:depth])) / len(relevant)


def row(system: str, runs: Runs, collection: Collection, queries: Sequence[str]) -> dict[str, object]:
    """A row of the table: means over queries."""
    judged = [(runs[q], collection.relevant[q]) for q in queries]
    return {
        "collection": collection.name,
        "system": system,
        "queries": len(queries),
        "nDCG@10": float(np.mean([ndcg(*j) for j in judged])),
        "MAP": float(np.mean([average_precision(*j) for j in judged])),
        "recall@50": float(np.mean([recall(*j) for j in judged])),
    }


def interval(
    ours: Runs, theirs: Runs, collection: Collection, queries: Sequence[str], draws: int = 10_000
) -> tuple[float, float, float]:
    """Mean difference in nDCG@10 and its 95 % interval by the paired bootstrap over queries."""
    gaps = np.asarray(
        [ndcg(ours[q], collection.relevant[q]) - ndcg(theirs[q], collection.relevant[q]) for q in queries]
    )
    rng = np.random.default_rng(0)
    means = gaps[rng.integers(0, len(gaps), (draws, len(gaps)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gaps.mean()), float(low), float(high)
