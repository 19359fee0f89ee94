"""Words near to a misspelling, found by what is left when letters are deleted.

Two words within a few edits share a string that both become by deleting letters (symmetric deletes: Garbe
2012, after Mor and Fraenkel 1982): so the deletes of every word are hashed into one sorted array, and those
of a misspelling are looked up in it. A second array holds the words' consonants by sound with one deleted,
which finds slips of any number of vowels and of letters that sound alike. Everything works on whole arrays,
so many misspellings cost little more than one.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.products.spelling.letters import VOWELS, ClassTable, Codes, encode
from mainspring.products.spelling.lexicon import STEPS, Lexicon

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint32]

PREFIX = 7
"""Letters of a word whose deletes are indexed."""
_SOUNDS = 6
_SHORT = 5
"""Words of fewer letters are indexed with one deletion, others with two."""
MOST = 48
"""Candidates of a word that are compared letter by letter."""
_MANY = 4000


class Found(NamedTuple):
    """Candidates of several misspellings, in order of the misspellings."""

    row: Ints
    """[C] number of the misspelling."""
    place: Ints
    """[C] number of the word in the lexicon."""


class Candidates:
    """An index of one lexicon. Making it takes some hundred milliseconds for 100,000 words."""

    def __init__(self, lexicon: Lexicon, table: ClassTable) -> None:
        self._table = table
        self.codes, self.lengths = encode(lexicon.words)
        self.classes = table.of(self.codes)
        self._bags = _bags(self.classes)
        self._costs = lexicon.costs.astype(np.float32) / np.float32(STEPS)
        self._near = _Index(*_deletes(self.codes, self.lengths))
        self._alike = _Index(*_sounds(self.classes))

    def find(self, words: list[str], most: int = MOST) -> Found:
        """The likeliest candidates of each word, `most` of each."""
        codes, lengths = encode(words)
        classes = self._table.of(codes)
        rows, places = [], []
        for index, (hashes, owners) in (
            (self._near, _deletes(codes, lengths)),
            (self._alike, _sounds(classes)),
        ):
            row, place = index.look_up(hashes, owners)
            rows.append(row)
            places.append(place)
        both = np.unique((np.concatenate(rows) << 32) | np.concatenate(places))
        row, place = both >> 32, both & 0xFFFFFFFF
        longer = np.abs(lengths[row] - self.lengths[place])
        apart = _popcount(_bags(classes)[row] ^ self._bags[place])
        near = (longer <= 4) & (apart <= 7)
        row, place = row[near], place[near]
        rough = 0.45 * self._costs[place] + 2.2 * apart[near] + 1.2 * longer[near]
        order = np.lexsort((rough, row))
        row, place = row[order], place[order]
        first = np.searchsorted(row, row)
        kept = np.arange(len(row)) - first < most
        return Found(row[kept], place[kept])


class _Index:
    """Hashes in order, each with the number of the word that it is of."""

    def __init__(self, hashes: Hashes, owners: Ints) -> None:
        packed = np.sort((hashes.astype(np.uint64) << np.uint64(32)) | owners.astype(np.uint64))
        self._hashes = (packed >> np.uint64(32)).astype(np.uint32)
        self._owners = (packed & np.uint64(0xFFFFFFFF)).astype(np.int32)

    def look_up(self, hashes: Hashes, rows: Ints) -> tuple[Ints, Ints]:
        """Pairs of a row and a word whose hashes are equal."""
        first = np.searchsorted(self._hashes, hashes, "left")
        count = np.minimum(np.searchsorted(self._hashes, hashes, "right") - first, _MANY)
        total = int(count.sum())
        begin = np.repeat(first - (np.cumsum(count) - count), count)
        return np.repeat(rows, count), self._owners[begin + np.arange(total)].astype(np.int64)


def skeleton(classes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Sounds of the consonants of words, moved together to the left: [N, L] classes -> [N, 6].

    Vowels, h and w count where a word begins with them, all alike; letters that sound alike are one.
    """
    after = np.zeros_like(classes)
    after[:, :-1] = classes[:, 1:]
    sounds = _SOUND[classes]
    soft = np.isin(after, [5, 9, 25])  # before e, i, y
    sounds = np.where((classes == 3) & soft, _S, sounds)
    sounds = np.where((classes == 7) & soft, _J, sounds)
    sounds = np.where((classes == 16) & (after == 8), _F, sounds)
    sounds[:, 0] = np.where((sounds[:, 0] == 0) & (classes[:, 0] > 0), _VOWEL, sounds[:, 0])
    fresh = sounds > 0
    fresh[:, 1:] &= sounds[:, 1:] != sounds[:, :-1]
    column = np.cumsum(fresh, axis=1) - 1
    rows, columns = np.nonzero(fresh & (column < _SOUNDS))
    made = np.zeros((len(classes), _SOUNDS), np.int8)
    made[rows, column[rows, columns]] = sounds[rows, columns]
    return made


def _make_sounds() -> NDArray[np.int8]:
    table = np.zeros(32, np.int8)
    for number, group in enumerate(["bp", "fv", "dt", "ckqgx", "sz", "j", "mn", "l", "r"], 1):
        for letter in group:
            table[ord(letter) - 96] = number
    table[31] = 12
    return table


_SOUND = _make_sounds()
_F, _S, _J, _VOWEL = (np.int8(n) for n in (2, 5, 6, 13))


def _deletes(codes: Codes, lengths: Codes) -> tuple[Hashes, Ints]:
    """Hashes of what is left of each word's beginning without none, one or two letters; and whose."""
    width = min(PREFIX, codes.shape[1])
    inside = np.minimum(lengths, PREFIX)
    parts: list[Hashes] = []
    owners: list[Ints] = []
    numbers = np.arange(len(codes))
    for left_out in (out for count in range(3) for out in combinations(range(width), count)):
        most = left_out[-1] if left_out else -1
        fits = inside > most
        if len(left_out) == 2:
            fits = fits & (lengths >= _SHORT)
        elif len(left_out) == 1:
            fits = fits & (lengths >= 2)
        chosen = codes[fits]
        hashes = np.zeros(len(chosen), np.uint32)
        for column in range(width):
            if column not in left_out:
                letter = chosen[:, column].astype(np.uint32)
                hashes = np.where(
                    letter > 0,
                    hashes * np.uint32(0x01000193) + letter * np.uint32(0x9E3779B1) + np.uint32(1),
                    hashes,
                )
        parts.append(hashes)
        owners.append(numbers[fits])
    return np.concatenate(parts), np.concatenate(owners)


def _sounds(classes: NDArray[np.int8]) -> tuple[Hashes, Ints]:
    """Hashes of each word's consonants without none or one; and whose they are."""
    made = skeleton(classes)
    count = (made > 0).sum(axis=1)
    numbers = np.arange(len(classes))
    parts: list[Hashes] = []
    owners: list[Ints] = []
    for left_out in range(-1, _SOUNDS):
        fits = (count >= 2) if left_out < 0 else (count >= 3) & (count > left_out)
        chosen = made[fits]
        hashes = np.full(len(chosen), 7, np.uint32)
        for column in range(_SOUNDS):
            if column != left_out:
                sound = chosen[:, column].astype(np.uint32)
                hashes = np.where(sound > 0, hashes * np.uint32(31) + sound, hashes)
        parts.append(hashes)
        owners.append(numbers[fits])
    return np.concatenate(parts), np.concatenate(owners)


def _bags(classes: NDArray[np.int8]) -> NDArray[np.uint32]:
    """A bit for each class that a word has: [N, L] -> [N]."""
    bits = np.where(classes > 0, np.uint32(1) << classes.astype(np.uint32), np.uint32(0))
    bags: NDArray[np.uint32] = np.bitwise_or.reduce(bits, axis=1).astype(np.uint32)
    return bags


def _popcount(bits: NDArray[np.uint32]) -> Ints:
    return np.bitwise_count(bits).astype(np.int64)


def is_vowel(classes: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which classes are of vowels."""
    return np.isin(classes, sorted(VOWELS))
