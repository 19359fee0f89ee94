"""The ranker's weights: those under which the learning half's choices are likeliest.

Each example is a string with what was meant, or a right word that the lexicon does not have. The sum of
log probabilities is concave, so a few steps of L-BFGS find its maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mainspring.products.spelling.engine import Asked, LanguageEngine
from mainspring.products.spelling.rank import FEATURES, UNKNOWN, Weights

_RIDGE = 1e-3
PRIOR = "unknown"
"""The feature that is a log probability already: its weight is 1, so that it holds for any lexicon."""


class Examples(NamedTuple):
    """Strings with their candidates and which is right."""

    rows: NDArray[np.int64]
    """[C]"""
    features: NDArray[np.float64]
    """[C, F]"""
    unknown: NDArray[np.float64]
    """[N, U]"""
    target: NDArray[np.int64]
    """[N] number of the right candidate; -1: the string is right."""
    weight: NDArray[np.float64]
    """[N]"""


def examples(
    engine: LanguageEngine, asked: Sequence[Asked], meant: Sequence[str | None], weight: float
) -> Examples:
    """Candidates of strings; those whose right word is not among them are left out.

    Args:
        engine: of their language.
        asked: strings, with what stands beside them.
        meant: the right word of each; None: it is right.
        weight: of each.
    """
    empty = np.zeros((0, len(FEATURES))), np.zeros((0, len(UNKNOWN)))
    none = np.zeros(0, np.int64)
    parts = [Examples(none, *empty, none, np.zeros(0))]
    for at in range(0, len(asked), 256):
        some, right = asked[at : at + 256], meant[at : at + 256]
        made = engine.propose(some)
        target = np.array([-1 if m is None else -2 for m in right])
        for number, (row, text) in enumerate(zip(made.rows.tolist(), made.texts, strict=True)):
            if right[row] == text:
                target[row] = number
        parts.append(
            _only(Examples(made.rows, made.features, made.unknown, target, np.full(len(some), weight)))
        )
    return joined(parts)


def joined(parts: Sequence[Examples]) -> Examples:
    """Several as one."""
    rows, targets = [], []
    strings = candidates = 0
    for part in parts:
        rows.append(part.rows + strings)
        targets.append(np.where(part.target >= 0, part.target + candidates, part.target))
        strings += len(part.target)
        candidates += len(part.rows)
    return Examples(
        np.concatenate(rows),
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.unknown for p in parts]),
        np.concatenate(targets),
        np.concatenate([p.weight for p in parts]),
    )


def balanced(data: Examples) -> Examples:
    """The same with weights under which right words count as much as misspelt ones together."""
    right = data.target < 0
    total = data.weight[right].sum()
    factor = data.weight[~right].sum() / total if total else 1.0
    return data._replace(weight=np.where(right, data.weight * factor, data.weight))


def save(data: Examples, path: Path) -> None:
    """Keep examples in a file."""
    np.savez(path, **data._asdict())


def load(path: Path) -> Examples:
    """Read what `save` wrote."""
    with np.load(path) as held:
        return Examples(**{name: held[name] for name in Examples._fields})


def _only(made: Examples) -> Examples:
    keep = made.target != -2
    kept = keep[made.rows]
    number = np.cumsum(kept) - 1
    strings = np.cumsum(keep) - 1
    target = (
        np.where(made.target >= 0, number[np.maximum(made.target, 0)], made.target)[keep]
        if len(made.rows)
        else made.target[keep]
    )
    return Examples(
        strings[made.rows[kept]], made.features[kept], made.unknown[keep], target, made.weight[keep]
    )


def fit(data: Examples, steps: int = 60) -> Weights:
    """The weights."""
    rows = torch.from_numpy(data.rows)
    features, unknown = torch.from_numpy(data.features), torch.from_numpy(data.unknown)
    target, weight = torch.from_numpy(data.target), torch.from_numpy(data.weight)
    w = torch.zeros(len(FEATURES), dtype=torch.float64)
    w[0], w[1] = 0.7, 0.5
    free = torch.zeros(len(UNKNOWN), dtype=torch.float64)
    free[1] = 0.3
    prior = torch.tensor([float(name == PRIOR) for name in UNKNOWN], dtype=torch.float64)
    w.requires_grad_()
    free.requires_grad_()
    optimizer = torch.optim.LBFGS([w, free], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        u = free * (1 - prior) + prior
        scores, stays = features @ w, unknown @ u
        most = stays.scatter_reduce(0, rows, scores, "amax").detach()
        total = torch.exp(stays - most).index_add(0, rows, torch.exp(scores - most[rows]))
        chosen = torch.where(target >= 0, scores[target.clamp(min=0)], stays)
        nll = (weight * (torch.log(total) + most - chosen)).sum() / weight.sum()
        return nll + _RIDGE * (w.square().sum() + free.square().sum()) / 2

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Weights(w.detach().numpy(), (free * (1 - prior) + prior).detach().numpy())
