"""How much a string looks like a word of a language: an interpolated n-gram model of its letters.

Every order is smoothed by the one below in proportion to the number of letters that were seen to follow
(Witten and Bell 1991, method C). What a word that no lexicon has is worth depends on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mainspring.products.spelling.letters import Codes, encode
from mainspring.products.spelling.lexicon import STEPS, Lexicon

Floats = NDArray[np.float64]

ORDER = 4
_BEGIN, _END = 2, 3
_MOST = 30_000
_MIX = np.uint64(0x9E3779B97F4A7C15)


class LetterModel:
    """Letters of a lexicon's commonest words, each word counted by the logarithm of its frequency."""

    def __init__(self, lexicon: Lexicon) -> None:
        order = np.argsort(lexicon.costs, kind="stable")[:_MOST]
        words = [lexicon.words[i] for i in order.tolist()]
        weights = 1.0 + np.maximum(0.0, 200.0 - lexicon.costs[order]) / STEPS / 3.0
        text, inside = _framed(words)
        self._letters = max(2, len(np.unique(text)))
        self._orders: list[tuple[NDArray[np.uint64], Floats, NDArray[np.uint64], Floats, Floats]] = []
        per_letter = np.repeat(weights, inside.sum(axis=1))
        for length in range(1, ORDER + 1):
            grams, contexts = _hashes(text, length)
            grams, contexts = grams[inside], contexts[inside]
            keys, number = np.unique(grams, return_inverse=True)
            counts: Floats = np.bincount(number, weights=per_letter).astype(np.float64)
            context_of = np.zeros(len(keys), np.uint64)
            context_of[number] = contexts
            heads, head = np.unique(context_of, return_inverse=True)
            totals: Floats = np.bincount(head, weights=counts).astype(np.float64)
            kinds = np.bincount(head).astype(np.float64)
            self._orders.append((keys, counts, heads, totals, kinds))

    def log_probabilities(self, words: list[str]) -> Floats:
        """log p of each word's letters and its end: [N]."""
        if not words:
            return np.zeros(0)
        text, inside = _framed(words)
        p = np.full(text.shape, 1.0 / self._letters)
        for length, (keys, counts, heads, totals, kinds) in enumerate(self._orders, 1):
            grams, contexts = _hashes(text, length)
            count = _at(keys, counts, grams)
            total, kind = _at(heads, totals, contexts), _at(heads, kinds, contexts)
            p = np.where(total > 0, (count + kind * p) / np.where(total > 0, total + kind, 1.0), p)
        logs: Floats = np.where(inside, np.log(p), 0.0).sum(axis=1)
        return logs


def _framed(words: list[str]) -> tuple[Codes, NDArray[np.bool_]]:
    """Letters with beginnings and an end: [N, L + ORDER], and which places are predicted."""
    codes, lengths = encode(words)
    width = codes.shape[1]
    text = np.zeros((len(words), width + ORDER), np.int32)
    text[:, : ORDER - 1] = _BEGIN
    text[:, ORDER - 1 : ORDER - 1 + width] = codes
    text[np.arange(len(words)), ORDER - 1 + lengths] = _END
    place = np.arange(text.shape[1])
    return text, (place >= ORDER - 1) & (place <= ORDER - 1 + lengths[:, None])


def _hashes(text: Codes, length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """For each place, a hash of the `length` letters that end there, and of those before its own."""
    gram = np.full(text.shape, length, np.uint64)
    context = gram
    for back in range(length - 1, -1, -1):
        letter = np.zeros(text.shape, np.uint64)
        letter[:, back:] = text[:, : text.shape[1] - back].astype(np.uint64)
        context = gram
        gram = (gram + letter) * _MIX
        gram ^= gram >> np.uint64(29)
    return gram, context


def _at(keys: NDArray[np.uint64], values: Floats, wanted: NDArray[np.uint64]) -> Floats:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0.0)
