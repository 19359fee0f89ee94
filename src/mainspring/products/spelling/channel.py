"""The learnt error channel: how likely a word is to be typed as another string.

Edits depend on the letters around them: an intended letter typed as another, left out after the letter
before it, one typed too many after the letter before it, two exchanged (Kernighan, Church and Gale 1990);
and pairs of letters typed as one or two others (Brill and Moore 2000). The likeliest way from the word to
the string is found by dynamic programming over letter classes, for thousands of pairs at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.products.spelling.letters import CLASSES, Codes

Floats = NDArray[np.float32]
Classes = NDArray[np.int8]

BAND = 4
"""Places by which a word and a string may be out of step."""
FAR = np.float32(60.0)
"""Cost of what cannot be."""
KEYS = np.float32(5.5)
"""Cost of a neighbouring key where none was learnt."""
FIRST = np.float32(0.5)
"""What is kept of the cost that an edit of the first letter has beyond others: writers spare it, slips of
keys do not. On learning halves: of SymSpell's queries .499 right, with all of it .484; of four other English
sets .598 both ways."""


class Channel(NamedTuple):
    """Costs of edits, -log p, by letter classes (a, b: intended; x, y: typed). [32] or [32, 32] and so on."""

    replaced: Floats
    """[a, x]: a typed as x."""
    omitted: Floats
    """[b, a]: a left out after an intended b (0 at the beginning)."""
    added: Floats
    """[b, x]: x typed too many after an intended b."""
    swapped: Floats
    """[a, b]: ab typed as ba."""
    joined: Floats
    """[a, b, x]: ab typed as x."""
    parted: Floats
    """[a, x, y]: a typed as xy."""
    paired: Floats
    """[a, b, x, y]: ab typed as xy."""
    marks: Floats
    """[3]: a mark left out, added, changed."""
    first: Floats
    """[1]: added for an edit of the first letter."""

    def with_keys(self, near: Mapping[str, str], class_of: Mapping[str, int]) -> Channel:
        """The same on a keyboard: neighbouring keys cost no more than `KEYS`, the first letter `FIRST`."""
        replaced = self.replaced.copy()
        for letter, others in near.items():
            for other in others:
                a, x = class_of[letter], class_of[other]
                if a != x:
                    replaced[a, x] = min(replaced[a, x], KEYS)
        return self._replace(replaced=replaced, first=FIRST * self.first)


class Words(NamedTuple):
    """Words or strings as arrays."""

    codes: Codes
    """[N, L] code points, 0 beyond the end."""
    classes: Classes
    """[N, L]"""
    lengths: Codes
    """[N]"""

    def rows(self, numbers: NDArray[np.int64]) -> Words:
        """Some of them."""
        lengths = self.lengths[numbers]
        width = int(lengths.max(initial=1))
        return Words(self.codes[numbers, :width], self.classes[numbers, :width], lengths)


def costs(channel: Channel, typed: Words, meant: Words) -> Floats:
    """-log p of each typed string given the word that was meant, up to a constant: [N], [N] -> [N]."""
    count = len(typed.lengths)
    result = np.full(count, FAR, np.float32)
    if not count:
        return result
    n, m = int(typed.lengths.max()), int(meant.lengths.max())
    x, y = typed.codes[:, :n].T.copy(), meant.codes[:, :m].T.copy()
    xc, yc = (w.classes.T[:k].astype(np.int64) for w, k in ((typed, n), (meant, m)))
    plain_x, plain_y = x == xc + 96, y == yc + 96
    before = np.vstack(
        [np.zeros((1, count), np.int64), yc]
    )  # before[j]: class of the j-th letter, 0 at first
    omitted = channel.omitted.ravel()[before[:-1] * CLASSES + yc]
    flat, marks = _Flat(channel), channel.marks
    table = np.full((n + 1, m + 1, count), FAR, np.float32)
    table[0, 0] = 0
    for i in range(n + 1):
        for j in range(max(0, i - BAND), min(m, i + BAND) + 1):
            if i == j == 0:
                continue
            best = table[i, j]
            if j:
                cost = omitted[j - 1] + (channel.first[0] if j == 1 else 0)
                np.minimum(best, table[i, j - 1] + cost, out=best)
            if i:
                cost = flat.added[before[j] * CLASSES + xc[i - 1]] + (channel.first[0] if i == 1 else 0)
                np.minimum(best, table[i - 1, j] + cost, out=best)
            if i and j:
                a, b = yc[j - 1], xc[i - 1]
                mark = np.where(plain_x[i - 1], marks[0], np.where(plain_y[j - 1], marks[1], marks[2]))
                other = np.where(a == b, mark, flat.replaced[a * CLASSES + b])
                if i == j == 1:
                    other = other + channel.first[0]
                same = x[i - 1] == y[j - 1]
                np.minimum(best, table[i - 1, j - 1] + np.where(same, np.float32(0), other), out=best)
                if j > 1:
                    key = (yc[j - 2] * CLASSES + a) * CLASSES + b
                    np.minimum(best, table[i - 1, j - 2] + flat.joined[key], out=best)
                if i > 1:
                    key = (a * CLASSES + xc[i - 2]) * CLASSES + b
                    np.minimum(best, table[i - 2, j - 1] + flat.parted[key], out=best)
                if i > 1 and j > 1:
                    pair = yc[j - 2] * CLASSES + a
                    crossed = (x[i - 1] == y[j - 2]) & (x[i - 2] == y[j - 1])
                    cost = np.where(
                        crossed, flat.swapped[pair], flat.paired[(pair * CLASSES + xc[i - 2]) * CLASSES + b]
                    )
                    np.minimum(best, table[i - 2, j - 2] + cost, out=best)
    return np.minimum(table[typed.lengths, meant.lengths, np.arange(count)], FAR)


class _Flat:
    """Tables as rows of numbers."""

    def __init__(self, channel: Channel) -> None:
        self.replaced = channel.replaced.ravel()
        self.added = channel.added.ravel()
        self.swapped = channel.swapped.ravel()
        self.joined = channel.joined.ravel()
        self.parted = channel.parted.ravel()
        self.paired = channel.paired.ravel()
