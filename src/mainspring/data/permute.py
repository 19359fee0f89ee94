"""Keyed permutations of 0..size-1 that need no table: a Feistel network with cycle walking.

Black and Rogaway 2002, "Ciphers with arbitrary finite domains": a balanced Feistel network permutes the
smallest 2^(2k) that holds the domain; results outside the domain are fed back until they fall inside. The
round function is the mixing function of SplitMix64 (Steele, Lea and Flood 2014) on half, round and key.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mainspring.errors import DataError

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def key_of(*parts: int | str) -> int:
    """A 64-bit key from numbers and names; different parts give different keys."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> NDArray[np.int64]:
    """Where keyed permutations of 0..size-1 take each index; the three arguments are broadcast.

    Args:
        index: integers in 0..size-1.
        size: number of elements permuted, 1 to 2^62.
        key: which of the permutations, 0 to 2^64 - 1.

    Raises:
        DataError: an index or a size is outside its range.
    """
    places, sizes = np.broadcast_arrays(np.asarray(index, dtype=np.int64), np.asarray(size, dtype=np.int64))
    if places.size and (sizes.min() < 1 or sizes.max() > 1 << 62):
        raise DataError(f"cannot permute {sizes.min()}..{sizes.max()} elements: 1 to 2^62 are possible")
    if (wrong := (places < 0) | (places >= sizes)).any():
        raise DataError(f"index {places[wrong][0]} is outside 0..{sizes[wrong][0] - 1}")
    keys = np.broadcast_to(np.asarray(key, dtype=np.uint64), places.shape).ravel()
    bounds = sizes.astype(np.uint64).ravel()
    # Bits of half a number; frexp gives the bit length of size - 1 (one more beyond 2^53, which is harmless).
    halves = np.maximum(1, (np.frexp((sizes - 1).ravel().astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    result = places.astype(np.uint64).ravel()
    pending = np.arange(result.size)
    while pending.size:
        result[pending] = _feistel(result[pending], halves[pending], keys[pending])
        pending = pending[result[pending] >= bounds[pending]]
    return result.astype(np.int64).reshape(places.shape)


def _feistel(
    values: NDArray[np.uint64], halves: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << halves) - np.uint64(1)
    left, right = values >> halves, values & mask
    for number in range(1, _ROUNDS + 1):
        salt = keys + np.uint64(number * _GOLDEN & _MASK64)
        left, right = right, left ^ (_mix(right ^ salt) & mask)
    return (left << halves) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
