"""The error channel from pairs of misspelling and word: align, count, divide, and align again.

Viterbi training: with the costs at hand each pair is aligned in its likeliest way; the edits met there,
smoothed by what they would be expected at, give the next costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mainspring.products.spelling.channel import FAR, Channel
from mainspring.products.spelling.keyboards import neighbours
from mainspring.products.spelling.letters import CLASSES, VOWELS, letter_class

_MOST = 18
_ROUNDS = 3
_LEAST = 3.0

Edit = tuple[str, tuple[int, ...]]


class Counts(NamedTuple):
    """What was met in alignments."""

    edits: Counter[Edit]
    letters: Counter[int]
    """Intended letters."""
    pairs: Counter[tuple[int, int]]
    """Intended neighbours, 0 before the first."""
    words: float
    firsts: float
    """Edits of first letters."""
    marks: Counter[str]


def fit(
    pairs: Iterable[tuple[str, str, float]], parent: Channel | None = None, strength: float = 30.0
) -> Channel:
    """Costs from (wrong, right, weight).

    Args:
        pairs: misspellings.
        parent: what is expected where little is met (None: what letters' sounds and keys let expect).
        strength: occurrences of a letter that the expectation weighs as much as.
    """
    data = [(a, b, w) for a, b, w in pairs if len(a) <= _MOST and len(b) <= _MOST]
    expected = generic() if parent is None else parent
    channel = expected
    for _ in range(_ROUNDS if parent is None else 1):
        channel = _costs(_count(data, channel), expected, strength)
    return channel


def generic() -> Channel:
    """Costs that only know vowels, sounds that are alike, keys and doubled letters."""
    replaced = np.full((CLASSES, CLASSES), 7.5, np.float32)
    for group, cost in (
        ("aeiouy", 4.0),
        ("bp", 5.0),
        ("dt", 5.0),
        ("ckqgx", 5.0),
        ("szc", 5.0),
        ("fvp", 5.5),
        ("mn", 4.7),
        ("gj", 5.2),
        ("lr", 5.5),
        ("iy", 3.7),
        ("vw", 4.8),
    ):
        for a in group:
            for b in group:
                replaced[ord(a) - 96, ord(b) - 96] = min(replaced[ord(a) - 96, ord(b) - 96], cost)
    for a, others in neighbours("en", "Latn").items():
        for b in others:
            replaced[letter_class(a), letter_class(b)] = min(replaced[letter_class(a), letter_class(b)], 6.0)
    np.fill_diagonal(replaced, 3.5)
    omitted = np.full((CLASSES, CLASSES), 5.5, np.float32)
    added = np.full((CLASSES, CLASSES), 6.3, np.float32)
    for vowel in VOWELS:
        omitted[:, vowel] = 4.5
        added[:, vowel] = 5.8
    omitted[:, [28, 29]] = 2.0
    np.fill_diagonal(omitted, 3.3)
    np.fill_diagonal(added, 4.6)
    return Channel(
        replaced,
        omitted,
        added,
        np.full((CLASSES, CLASSES), 5.0, np.float32),
        np.full((CLASSES,) * 3, FAR, np.float32),
        np.full((CLASSES,) * 3, FAR, np.float32),
        np.full((CLASSES,) * 4, FAR, np.float32),
        np.array([2.5, 4.5, 3.5], np.float32),
        np.array([1.5], np.float32),
    )


def _count(data: list[tuple[str, str, float]], channel: Channel) -> Counts:
    counts = Counts(Counter(), Counter(), Counter(), 0.0, 0.0, Counter())
    words = firsts = 0.0
    tables = _Lists(channel)
    for wrong, right, weight in data:
        words += weight
        y = [letter_class(c) for c in right]
        for before, letter in zip([0, *y], y, strict=False):
            counts.letters[letter] += weight  # type: ignore[assignment]
            counts.pairs[before, letter] += weight  # type: ignore[assignment]
        path = _path(wrong, right, tables)
        for edit in path:
            if edit[0] == "same":
                continue
            if edit[0] == "mark":
                counts.marks[str(edit[1][0])] += weight  # type: ignore[assignment]
            else:
                counts.edits[edit] += weight  # type: ignore[assignment]
        if wrong[:1] != right[:1]:
            firsts += weight
        for edit in _merged(wrong, right, path):
            counts.edits[edit] += weight  # type: ignore[assignment]
    return counts._replace(words=words, firsts=firsts)


class _Lists:
    """Costs as lists, which Python reads faster than arrays."""

    def __init__(self, channel: Channel) -> None:
        self.replaced = channel.replaced.tolist()
        self.omitted = channel.omitted.tolist()
        self.added = channel.added.tolist()
        self.swapped = channel.swapped.tolist()
        self.marks = channel.marks.tolist()


def _path(wrong: str, right: str, tables: _Lists) -> list[Edit]:
    """The edits of single letters and swaps on the likeliest way from the word to the string."""
    x, y = [letter_class(c) for c in wrong], [letter_class(c) for c in right]
    n, m = len(x), len(y)
    best = [[math.inf] * (m + 1) for _ in range(n + 1)]
    came: list[list[tuple[int, int, Edit] | None]] = [[None] * (m + 1) for _ in range(n + 1)]
    best[0][0] = 0.0
    for i in range(n + 1):
        for j in range(m + 1):
            here = best[i][j]
            if here == math.inf:
                continue
            before = y[j - 1] if j else 0
            steps: list[tuple[int, int, float, Edit]] = []
            if j < m:
                steps.append((i, j + 1, tables.omitted[before][y[j]], ("omitted", (before, y[j]))))
            if i < n:
                steps.append((i + 1, j, tables.added[before][x[i]], ("added", (before, x[i]))))
            if i < n and j < m:
                if wrong[i] == right[j]:
                    steps.append((i + 1, j + 1, 0.0, ("same", (y[j],))))
                elif x[i] == y[j]:
                    kind = 0 if ord(wrong[i]) == x[i] + 96 else 1 if ord(right[j]) == y[j] + 96 else 2
                    steps.append((i + 1, j + 1, tables.marks[kind], ("mark", (kind,))))
                else:
                    steps.append((i + 1, j + 1, tables.replaced[y[j]][x[i]], ("replaced", (y[j], x[i]))))
            if (
                i + 1 < n
                and j + 1 < m
                and wrong[i] == right[j + 1]
                and wrong[i + 1] == right[j]
                and wrong[i] != wrong[i + 1]
            ):
                steps.append((i + 2, j + 2, tables.swapped[y[j]][y[j + 1]], ("swapped", (y[j], y[j + 1]))))
            for a, b, cost, edit in steps:
                if here + cost < best[a][b]:
                    best[a][b] = here + cost
                    came[a][b] = (i, j, edit)
    path: list[Edit] = []
    i, j = n, m
    while (step := came[i][j]) is not None:
        i, j, edit = step
        path.append(edit)
    return path[::-1]


def _merged(wrong: str, right: str, steps: list[Edit]) -> list[Edit]:
    """Neighbouring edits of a pair of letters taken as one: ab typed as x, a as xy, ab as xy."""
    x, y = [letter_class(c) for c in wrong], [letter_class(c) for c in right]
    found: list[Edit] = []
    i = j = 0
    for first, second in pairwise(steps):
        moved = [_moves(first), _moves(second)]
        dx, dy = moved[0][0] + moved[1][0], moved[0][1] + moved[1][1]
        changed = (first[0] not in ("same", "mark", "swapped")) and (
            second[0] not in ("same", "mark", "swapped")
        )
        if changed:
            typed, meant = tuple(x[i : i + dx]), tuple(y[j : j + dy])
            kind = {(1, 2): "joined", (2, 1): "parted", (2, 2): "paired"}.get((dx, dy))
            if kind is not None:
                found.append((kind, meant + typed))
        i, j = i + moved[0][0], j + moved[0][1]
    return found


def _moves(edit: Edit) -> tuple[int, int]:
    return {"omitted": (0, 1), "added": (1, 0), "swapped": (2, 2)}.get(edit[0], (1, 1))


def _costs(counts: Counts, expected: Channel, strength: float) -> Channel:
    letters = np.ones(CLASSES)
    for letter, n in counts.letters.items():
        letters[letter] += n
    pairs = np.ones((CLASSES, CLASSES))
    for (a, b), n in counts.pairs.items():
        pairs[a, b] += n
    after = pairs.sum(axis=1)
    shapes = {"replaced": letters[:, None], "omitted": pairs, "added": after[:, None], "swapped": pairs}
    made: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for kind, total in shapes.items():
        met = np.zeros((CLASSES, CLASSES))
        for (name, where), n in counts.edits.items():
            if name == kind:
                met[where] += n
        share = (met + strength * np.exp(-getattr(expected, kind))) / (total + strength)
        made[kind] = -np.log(share).astype(np.float32)
    for kind, width in (("joined", 3), ("parted", 3), ("paired", 4)):
        table = getattr(expected, kind).copy()
        for (name, where), n in counts.edits.items():
            if name == kind and n >= _LEAST:
                total = letters[where[0]] if kind == "parted" else pairs[where[0], where[1]]
                table[where] = min(table[where], -math.log(n / (total + strength)))
        assert table.ndim == width
        made[kind] = table
    marked = np.array([counts.marks[str(k)] for k in range(3)])
    prior = np.exp(-expected.marks)
    share = (marked + strength * 10 * prior) / (sum(letters) / 4 + strength * 10)
    first = (counts.firsts + 20 * 0.04) / (counts.words + 20)
    average = 1 / 5.0
    return Channel(
        **made,
        marks=np.maximum(-np.log(share), 1.2).astype(np.float32),
        first=np.array([max(0.0, math.log(average / max(first, 1e-3)))], np.float32),
    )
