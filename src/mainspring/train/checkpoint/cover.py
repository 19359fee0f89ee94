"""Whether boxes are a tensor: every element in exactly one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

Extent = tuple[Sequence[int], Sequence[int]]
"""Offsets and sizes of a box."""


def fault(shape: Sequence[int], extents: Sequence[Extent]) -> str:
    """What is wrong with boxes that should cover `shape` once; empty if nothing is.

    >>> fault((2, 3), [((0, 0), (1, 3)), ((1, 0), (1, 3))])
    ''
    >>> fault((2, 3), [((0, 0), (1, 3))])
    '3 of 6 elements are in no slice'
    """
    for offsets, sizes in extents:
        if len(offsets) != len(shape) or any(
            o < 0 or s < 0 or o + s > n for o, s, n in zip(offsets, sizes, shape, strict=True)
        ):
            return f"a slice of {list(sizes)} at {list(offsets)} is not inside its shape {list(shape)}"
    if both := _overlap([e for e in extents if math.prod(e[1])]):
        (one, _), (other, _) = both
        return f"the slices at {list(one)} and {list(other)} overlap"
    whole, covered = math.prod(shape), sum(math.prod(sizes) for _, sizes in extents)
    return "" if covered == whole and extents else f"{whole - covered} of {whole} elements are in no slice"


def _overlap(extents: Sequence[Extent]) -> tuple[Extent, Extent] | None:
    """Two boxes that share an element, if there are any, by a sweep along the dim in which most begin."""
    if len(extents) < 2:
        return None
    dims = range(len(extents[0][0]))
    if not dims:
        return extents[0], extents[1]
    sweep = max(dims, key=lambda d: len({offsets[d] for offsets, _ in extents}))
    active: list[Extent] = []
    for box in sorted(extents, key=lambda e: e[0][sweep]):
        start = box[0][sweep]
        active = [one for one in active if one[0][sweep] + one[1][sweep] > start]
        for other in active:
            if all(_cross(box, other, dim) for dim in dims):
                return other, box
        active.append(box)
    return None


def _cross(one: Extent, other: Extent, dim: int) -> bool:
    (a, m), (b, n) = (one[0][dim], one[1][dim]), (other[0][dim], other[1][dim])
    return a < b + n and b < a + m
