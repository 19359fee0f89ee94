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

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mainspring.errors import UsageError
from mainspring.linear.lines import Ints, features_of
from mainspring.linear.rows import SparseRows

if TYPE_CHECKING:
    from mainspring.linear.settings import LinearSettings

Array = npt.NDArray[np.floating]
Places = npt.NDArray[np.integer[Any]]

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
    chosen: tuple[SparseRows, SparseRows] | None = field(default=None, init=False, repr=False)
    """Examples, and what of them is on these features, numbered by their places: made by compiled loops."""

    @classmethod
    def of(cls, features: Ints, total: int, dtype: type = np.float32, change: Array | None = None) -> Subset:
        """N = 0 on the features given; `change`: zeros to keep it in."""
        change = np.zeros((len(features), len(features)), dtype=dtype) if change is None else change
        return cls(features, places(features, total), change)

    def cost(self, rows: SparseRows) -> float:
        """About what an example costs beside one whose N is not followed (measured: 1.17 with 16 features, of
        which an example of 150 had 5.6)."""
        own = self.chosen[1].indices if self.chosen else np.flatnonzero(self.slots[rows.indices] >= 0)
        return 1 + len(self.features) / 4 * len(own) / max(1, len(rows.indices))

    def clear(self, lines: Ints) -> None:
        """N = 0 again, after a block that touched these lines."""
        self.change[:] = 0

    def step(self, indices: Ints, values: Array, c: float) -> None:
        """N <- N - c x (x' + x' N), of the features that are here."""
        at = self.slots[indices]
        here = at >= 0
        at, x = at[here], values[here]
        y = x @ self.change[at]
        y[at] += x
        self.change[at] -= c * np.outer(x, y)

    def concerned(self, lines: Ints) -> Places:
        """Features on which N is not 0, after a block that touched these lines."""
        return self.features

    def apply(self, features: Places, d: Array) -> Array:
        """N d, for d [features] on those that are concerned: on the same."""
        product: Array = self.change @ d
        return product


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

    def cost(self, rows: SparseRows) -> float:
        """See `Subset`, here and below; by its arithmetic."""
        return 1 + self.count / 8

    def clear(self, lines: Ints) -> None:
        self.change[features_of(lines, len(self.change))] = 0

    def signs(self, indices: Places) -> Array:
        """Rows of A: [indices, k]."""
        bits = hashed(indices, self.seed)[:, None] >> np.arange(self.count, dtype=np.uint64) & np.uint64(1)
        signs: Array = (1.0 - 2.0 * bits) / np.sqrt(self.count)
        return signs

    def step(self, indices: Ints, values: Array, c: float) -> None:
        """N A <- N A - c x (x' A + x' N A)."""
        y = values @ (self.signs(indices) + self.change[indices])
        self.change[indices] -= c * np.outer(values, y)

    def concerned(self, lines: Ints) -> Places:
        return features_of(lines, len(self.change))

    def apply(self, features: Places, d: Array) -> Array:
        """About N d."""
        product: Array = self.change[features] @ (self.signs(features).T @ d)
        return product


Tracker = Subset | Projection | None


def hashed(indices: Places, seed: int) -> npt.NDArray[np.uint64]:
    """64 bits of each feature (the finaliser of splitmix64, Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = indices.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def followed(settings: LinearSettings, counts_of: Callable[[], npt.NDArray[np.int64]]) -> Ints:
    """Features on which a `Subset` follows N: none where the combiner is of another kind.

    Args:
        settings: name the combiner.
        counts_of: in how many rows each feature stands.

    Raises:
        UsageError: `exact` on too many features.
    """
    if settings.combiner not in ("exact", "frequent"):
        return np.empty(0, dtype=np.int32)
    counts = counts_of()
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
