"""Keyed permutations of 0..size-1 that need no table: a Feistel network with cycle walking.

Black and Rogaway 2002, "Ciphers with arbitrary finite domains": a balanced Feistel network permutes the smallest
2^(2k) that holds the domain; results outside the domain are fed back until they fall inside. The round function is the
mixing function of SplitMix64 (Steele, Lea and Flood 2014) on half, round and key.
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


def permute(index: ArrayLike, size: int, key: int) -> NDArray[np.int64]:
    """Where a keyed permutation of 0..size-1 takes each index.

    Args:
        index: integers in 0..size-1, any shape.
        size: number of elements permuted, 1 to 2^62.
        key: which of the permutations.

    Raises:
        DataError: an index is outside 0..size-1.
    """
    values = np.asarray(index, dtype=np.int64)
    if size < 1 or size > 1 << 62:
        raise DataError(f"cannot permute {size} elements: 1 to 2^62 are possible")
    if values.size and (values.min() < 0 or values.max() >= size):
        raise DataError(f"index {int(values.min())}..{int(values.max())} is outside 0..{size - 1}")
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    result = values.astype(np.uint64).ravel()
    pending = np.arange(result.size)
    while pending.size:
        result[pending] = _feistel(result[pending], half, key)
        pending = pending[result[pending] >= np.uint64(size)]
    return result.astype(np.int64).reshape(values.shape)


def _feistel(values: NDArray[np.uint64], half: int, key: int) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for number in range(_ROUNDS):
        salt = np.uint64((key + (number + 1) * _GOLDEN) & _MASK64)
        left, right = right, left ^ (_mix(right ^ salt) & mask)
    return (left << bits) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
