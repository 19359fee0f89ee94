"""How a pass over a block depends on where it began, so that blocks taken at the same time can be composed.

One step of a linear model is w <- (1 - a l2) w - a f'(w.x) x; its derivative by w, (1 - a l2) I - a f'' x x'.
A block that began at w_g and ended at l would, begun at w_g + d, have ended at l + M d, M the product of its
steps' derivatives: exactly for least squares, to first order in d for others (SymSGD, Maleki, Musuvathi and
Mytkowicz, arXiv 1705.08030, section 3). M is kept as S (I + N): S the product of all (1 - a l2), and N

- on chosen features only (`Subset`): all of them, which is exact, or the commonest. Left out of N is then
  what examples share in rare features, where few of them meet;
- times random signs A [features, k] / sqrt(k), with E[A A'] = I (`Projection`): S N d is S (N A)(A' d) in
  expectation. Its variance falls with k and with the step size; at large steps it can be worse than no N.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mainspring.errors import UsageError
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings

Array = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int32]

EXACT_FEATURES = 4096
"""Features that `exact` takes: its matrix is their square (64 MiB), and each example passes over its rows."""


def places(features: Ints, total: int) -> Ints:
    """Where each of all features stands among `features`, or -1: [total]."""
    slots = np.full(total, -1, dtype=np.int32)
    slots[features] = np.arange(len(features), dtype=np.int32)
    return slots


@dataclass
class Subset:
    """N on some features.

    Attributes:
        features: which: [K].
        slots: [all features], a feature's place among them, or -1.
        change: N, [K, K].
    """

    features: Ints
    slots: Ints
    change: Array

    @classmethod
    def of(cls, features: Ints, total: int, dtype: type = np.float32) -> Subset:
        """N = 0 on the features given."""
        return cls(features, places(features, total), np.zeros((len(features), len(features)), dtype=dtype))

    def clear(self, touched: Ints) -> None:
        """N = 0 again."""
        self.change[:] = 0

    def step(self, indices: Ints, values: Array, c: float) -> None:
        """N <- N - c x (x' + x' N), of the features that are here."""
        at = self.slots[indices]
        here = at >= 0
        at, x = at[here], values[here]
        y = x @ self.change[at]
        y[at] += x
        self.change[at] -= c * np.outer(x, y)

    def apply(self, touched: Ints, d: Array) -> tuple[Ints, Array]:
        """N d, for d [touched]: on which features, and how much."""
        dense = np.zeros(len(self.slots))
        dense[touched] = d
        return self.features, self.change @ dense[self.features]


@dataclass
class Projection:
    """N A, for signs A that are a hash of feature and seed.

    Attributes:
        change: N A, [all features, k]; rows of features that a block has not touched are 0.
        seed: of the signs of this block.
    """

    change: Array
    seed: int
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = self.change.shape[1]

    def clear(self, touched: Ints) -> None:
        """N = 0 again."""
        self.change[touched] = 0

    def signs(self, indices: Ints) -> Array:
        """Rows of A: [indices, k]."""
        bits = hashed(indices, self.seed)[:, None] >> np.arange(self.count, dtype=np.uint64) & np.uint64(1)
        signs: Array = (1.0 - 2.0 * bits) / np.sqrt(self.count)
        return signs

    def step(self, indices: Ints, values: Array, c: float) -> None:
        """N A <- N A - c x (x' A + x' N A)."""
        y = values @ (self.signs(indices) + self.change[indices])
        self.change[indices] -= c * np.outer(values, y)

    def apply(self, touched: Ints, d: Array) -> tuple[Ints, Array]:
        """About N d, for d [touched]: on which features, and how much."""
        return touched, self.change[touched] @ (self.signs(touched).T @ d)


Tracker = Subset | Projection | None


def hashed(indices: Ints, seed: int) -> npt.NDArray[np.uint64]:
    """64 bits of each feature (the finaliser of splitmix64, Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = indices.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def followed(rows: SparseRows, settings: LinearSettings) -> Ints:
    """Features on which a `Subset` follows N: none where the combiner is of another kind.

    Raises:
        UsageError: `exact` on too many features.
    """
    if settings.combiner not in ("exact", "frequent"):
        return np.empty(0, dtype=np.int32)
    counts = rows.counts()
    used = int((counts > 0).sum())
    if settings.combiner == "exact":
        if used > EXACT_FEATURES:
            raise UsageError(
                f"combiner = 'exact' on {used:,} features keeps a matrix of their square; it takes "
                f"{EXACT_FEATURES:,} or fewer: use combiner='frequent'"
            )
        return np.flatnonzero(counts).astype(np.int32)
    most = np.argsort(-counts, kind="stable")[: min(settings.rank, used)]
    return np.sort(most).astype(np.int32)
