"""The global order of samples: a pure function of (seed, mixture, global index), the same for any number of
ranks.

Which source: the Kronecker sequence u + index / golden ratio (mod 1), whose prefixes fall into every interval
in proportion to its length with an error that grows only as log(index) (Niederreiter 1992, chapter 3); in
integers modulo 2^48, so that it is exact. How often a source has come before is a count of lattice points,
found with Euclid's algorithm (Graham, Knuth and Patashnik, Concrete Mathematics, section 3.5). Which row of
it: a keyed permutation for each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.data.config import DataConfig
from mainspring.data.dataset import TokenData
from mainspring.data.permute import key_of, permute
from mainspring.errors import ConfigError, DataError, suggest

_BITS = 48
_MODULUS = 1 << _BITS
_STEP = 173961102589771  # odd, nearest to 2^48 / golden ratio


class Mixture(NamedTuple):
    """Streams with their rows and shares."""

    names: tuple[str, ...]
    """Streams, in order of their names."""
    rows: tuple[int, ...]
    """Rows of each."""
    weights: tuple[float, ...]
    """Share of samples of each; they sum to 1."""

    @classmethod
    def of(cls, rows: Mapping[str, int], weights: Mapping[str, float]) -> Mixture:
        """A mixture of streams with `rows` each, drawn in proportion to `weights`; streams of no rows or
        weight are left out.

        Raises:
            DataError: nothing is left.
        """
        names = tuple(
            sorted(name for name, count in rows.items() if count > 0 and weights.get(name, 0.0) > 0)
        )
        if not names:
            raise DataError("the mixture is empty: no stream has both a weight and a full row")
        total = sum(weights[name] for name in names)
        return cls(names, tuple(rows[name] for name in names), tuple(weights[name] / total for name in names))


class Sample(NamedTuple):
    """One sample."""

    source: str
    """Name of the stream."""
    row: int
    """Row of it."""


def mixture_of(data: TokenData, config: DataConfig) -> Mixture:
    """The mixture that a run reads: training streams by alpha over their tokens, or by explicit weights.

    Raises:
        ConfigError: a weight names nothing, or is negative.
        DataError: no stream has a full row.
    """
    streams = data.split("train")
    rows = {name: stream.rows(config.seq_len) for name, stream in streams.items()}
    if not any(rows.values()):
        longest = max((stream.tokens for stream in streams.values()), default=0)
        raise DataError(
            f"{data.directory}: no row of seq_len = {config.seq_len} fits: the longest stream has {longest} "
            f"tokens, and a row takes {config.seq_len + 1}"
        )
    natural = {name: float(stream.tokens) ** config.alpha for name, stream in streams.items() if rows[name]}
    if config.weights is None:
        return Mixture.of(rows, natural)
    shares: dict[str, float] = {}
    for name, weight in config.weights.items():
        members = [s.name for s in streams.values() if name in (s.name, s.source)]
        if not members:
            known = {s.name for s in streams.values()} | {s.source for s in streams.values()}
            raise ConfigError(f"data.weights.{name}: no such source; {suggest(name, known)}")
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"data.weights.{name} = {weight}: a share is 0 or more")
        total = sum(natural.get(member, 0.0) for member in members)
        if weight and not total:
            raise ConfigError(f"data.weights.{name} = {weight}: it has no row of seq_len = {config.seq_len}")
        for member in members:
            shares[member] = shares.get(member, 0.0) + (
                weight * natural.get(member, 0.0) / total if total else 0.0
            )
    return Mixture.of(rows, shares)


def sample(seed: int, mixture: Mixture, index: int) -> Sample:
    """The sample at a global index; see `samples`."""
    chosen, rows = samples(seed, mixture, index, index + 1)
    return Sample(mixture.names[int(chosen[0])], int(rows[0]))


def samples(
    seed: int, mixture: Mixture, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples at global indices start .. stop-1: place of the stream in the mixture, and row of it.

    Every prefix of the order holds each stream in proportion to its weight, up to a few samples. A stream is
    walked through whole before any of its rows comes again, each epoch in an order of its own.

    Raises:
        DataError: the indices are negative, or beyond 2^48.
    """
    if not 0 <= start <= stop <= _MODULUS:
        raise DataError(f"sample indices {start}..{stop} are not within 0..2^{_BITS}")
    offset = key_of("mixture", seed) % _MODULUS
    bounds = _bounds(mixture.weights)
    index = np.arange(start, stop, dtype=np.uint64)
    points = (index * np.uint64(_STEP) + np.uint64(offset)) & np.uint64(_MODULUS - 1)
    chosen = np.searchsorted(np.asarray(bounds[1:], dtype=np.uint64), points, side="right").astype(np.int64)
    turns = np.empty(stop - start, dtype=np.int64)
    keys = np.empty(stop - start, dtype=np.uint64)
    for place in np.unique(chosen).tolist():
        here = np.flatnonzero(chosen == place)
        turns[here] = _visits(start, offset, bounds[place], bounds[place + 1]) + np.arange(here.size)
        epoch = turns[here] // mixture.rows[place]
        for number in range(int(epoch[0]), int(epoch[-1]) + 1):
            keys[here[epoch == number]] = key_of("rows", seed, mixture.names[place], number)
    sizes = np.asarray(mixture.rows, dtype=np.int64)[chosen]
    return chosen, permute(turns % sizes, sizes, keys)


def epochs(seed: int, mixture: Mixture, index: int) -> dict[str, float]:
    """How many times each stream has been walked through before a global index."""
    offset, bounds = key_of("mixture", seed) % _MODULUS, _bounds(mixture.weights)
    return {
        name: _visits(index, offset, bounds[i], bounds[i + 1]) / mixture.rows[i]
        for i, name in enumerate(mixture.names)
    }


def _bounds(weights: tuple[float, ...]) -> list[int]:
    """Ends of the intervals of 0..2^48 that belong to each stream."""
    total = sum(weights)
    ends, reached = [0], 0.0
    for weight in weights:
        reached += weight
        ends.append(min(_MODULUS, round(reached / total * _MODULUS)))
    ends[-1] = _MODULUS
    return ends


def _visits(count: int, offset: int, low: int, high: int) -> int:
    """How many of the first `count` points of the sequence lie in low .. high-1."""
    # floor((x - low) / M) - floor((x - high) / M) is 1 exactly when x mod M is in [low, high).
    return _floor_sum(count, offset - low) - _floor_sum(count, offset - high)


def _floor_sum(count: int, shift: int) -> int:
    """Sum over i < count of floor((i * STEP + shift) / MODULUS), by Euclid's algorithm on (STEP, MODULUS)."""
    total, n, m, a, b = 0, count, _MODULUS, _STEP, shift
    while n > 0:
        total += (n * (n - 1) // 2) * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            break
        # Count the lattice points under the line by columns instead of rows.
        n, b, m, a = top // m, top % m, a, m
    return total
