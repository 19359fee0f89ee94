"""Baselines over token ids: a unigram model and an interpolated modified Kneser-Ney n-gram model.

Kneser-Ney follows Chen & Goodman 1998 ("An Empirical Study of Smoothing Techniques for Language Modeling",
section 3): lower orders count distinct left neighbours instead of occurrences, every order subtracts one of
three discounts, estimated from the counts of counts, and gives what it saved to the order below; the lowest
order gives to the uniform distribution. Both models are proper distributions over the vocabulary.

An n-gram is known by a dense number: that of its first n-1 tokens, times the alphabet, plus its last token.
Numbers of one order are then places in one sorted array, whatever the vocabulary and the order; counting is
sorting and looking up is binary search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import DataError, UsageError
from mainspring.evaluate.stream import Bools, Ints, Stream

Floats = NDArray[np.float64]


class Unigram:
    """Relative frequencies with `delta` added to every count: p(w) = (c(w) + delta) / (N + delta V)."""

    def __init__(self, stream: Stream, vocab_size: int, *, delta: float = 1.0) -> None:
        _check(stream, vocab_size)
        counts = np.bincount(stream.ids, minlength=vocab_size) + delta
        self._log2: Floats = np.log2(counts / counts.sum())

    def log2_probabilities(self, stream: Stream) -> Floats:
        """log2 p of every token of the stream, [N]."""
        _check(stream, len(self._log2))
        return self._log2[stream.ids]

    def distribution(self) -> Floats:
        """Probability of each token of the vocabulary, [V]."""
        return np.exp2(self._log2)


class _Order(NamedTuple):
    """One order k: what it knows of its k-grams and of their contexts."""

    keys: Ints
    """[M] sorted: number of the first k-1 tokens * (V + 1) + last token."""
    share: NDArray[np.float32]
    """[M] (count - discount) / total of the context."""
    backoff: NDArray[np.float32]
    """[number of (k-1)-grams] weight of the order below; 1 for a context that nothing followed."""


class KneserNey:
    """Interpolated modified Kneser-Ney over token ids.

    A document begins with a sign of its own that is only ever context; n-grams that begin with it keep their
    plain counts, for nothing can stand before it. Memory is about 150 bytes a training token at order 5.

    Args:
        stream: training documents.
        vocab_size: V; every id must be below it.
        order: longest n-gram, at least 1.
    """

    def __init__(self, stream: Stream, vocab_size: int, *, order: int = 5) -> None:
        if order < 1:
            raise UsageError(f"order = {order}: an n-gram model needs order 1 or more, usually 5")
        _check(stream, vocab_size)
        if not len(stream.ids):
            raise DataError("an n-gram model cannot be trained on 0 tokens; give it documents")
        self.vocab_size, self.order = vocab_size, order
        self._alphabet = vocab_size + 1
        text, room = self._with_begins(stream)
        self._orders: list[_Order] = []
        here, keys = text, np.arange(self._alphabet)
        counts = np.bincount(text, minlength=self._alphabet)
        for k in range(1, order + 1):
            if k < order:
                fits = np.flatnonzero(room > k)
                longer = _count(here[fits] * self._alphabet + text[fits + k])
                # Distinct left neighbours: each (k+1)-gram adds one to the k-gram that is its tail.
                neighbours = np.bincount(here[fits[longer.place] + 1], minlength=len(keys))
                counts = np.where(_begins(keys, self._orders, self._alphabet), counts, neighbours)
            if k == 1:
                counts[vocab_size] = 0  # the begin sign is never predicted
            contexts = 1 if k == 1 else len(self._orders[-1].keys)
            self._orders.append(_discounted(keys, counts, self._alphabet, contexts, lowest=k == 1))
            if k < order:
                here = np.full(len(text), -1, np.int64)
                here[fits] = longer.number
                keys, counts = longer.keys, longer.counts

    def log2_probabilities(self, stream: Stream) -> Floats:
        """log2 p of every token of the stream given the tokens before it in its document, [N]."""
        _check(stream, self.vocab_size)
        text, room = self._with_begins(stream)
        log2: Floats = np.log2(self._probabilities(text, room)[text != self.vocab_size])
        return log2

    def distribution(self, context: Sequence[int], *, begins: bool = True) -> Floats:
        """Probability of each token of the vocabulary after `context`, [V].

        `begins` says whether the context is the beginning of a document, or a piece of its middle.
        """
        head = [self.vocab_size] if begins else []
        one = np.array([*head, *context, 0], dtype=np.int64)
        text = np.tile(one, (self.vocab_size, 1))
        text[:, -1] = np.arange(self.vocab_size)
        room = np.tile(np.arange(len(one), 0, -1), self.vocab_size)
        every = self._probabilities(text.reshape(-1), room)
        return every.reshape(self.vocab_size, len(one))[:, -1]

    def _with_begins(self, stream: Stream) -> tuple[Ints, Ints]:
        """The text with a begin sign before each document; tokens from each place to its document's end."""
        where = np.flatnonzero(stream.starts)
        if len(stream.ids) and (not len(where) or where[0] != 0):
            where = np.concatenate([[0], where])
        text = np.insert(stream.ids, where, self.vocab_size)
        ends = np.append(where[1:] + np.arange(1, len(where)), len(text))
        lengths = np.diff(np.concatenate([[0], ends]))
        return text, np.repeat(ends, lengths) - np.arange(len(text))

    def _probabilities(self, text: Ints, room: Ints) -> Floats:
        """p of each place of the text; at begin signs the value means nothing. text, room [N] -> [N]."""
        lowest = self._orders[0]
        p: Floats = lowest.share[text].astype(np.float64) + float(lowest.backoff[0]) / self.vocab_size
        here = text
        for k, (keys, share, backoff) in enumerate(self._orders[1:], start=2):
            fits = np.flatnonzero((room >= k) & (here >= 0))
            context = here[fits]
            number = _find(keys, context * self._alphabet + text[fits + k - 1])
            gain = np.where(number >= 0, share[number], 0.0)
            target = fits + k - 1
            p[target] = gain + backoff[context] * p[target]
            here = np.full(len(text), -1, np.int64)
            here[fits] = number
        return p


def _check(stream: Stream, vocab_size: int) -> None:
    if len(stream.ids) and not 0 <= int(stream.ids.min()) <= int(stream.ids.max()) < vocab_size:
        raise DataError(
            f"token ids run from {int(stream.ids.min())} to {int(stream.ids.max())}, but the vocabulary has "
            f"{vocab_size} entries: the data was made with another tokenizer"
        )


class _Counted(NamedTuple):
    keys: Ints
    """[M] distinct keys, sorted."""
    number: Ints
    """[N] where each given key stands among them."""
    counts: Ints
    """[M] how often each occurs."""
    place: Ints
    """[M] a place where each occurs."""


def _count(keys: Ints) -> _Counted:
    order = np.argsort(keys)
    in_order = keys[order]
    fresh = np.ones(len(keys), dtype=np.bool_)
    fresh[1:] = in_order[1:] != in_order[:-1]
    number = np.empty(len(keys), np.int64)
    number[order] = np.cumsum(fresh) - 1
    at = np.flatnonzero(fresh)
    return _Counted(in_order[at], number, np.diff(np.append(at, len(keys))), order[at])


def _find(keys: Ints, wanted: Ints) -> Ints:
    """Where each wanted key stands in the sorted keys, -1 where it does not. [N] -> [N]."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _begins(keys: Ints, below: list[_Order], alphabet: int) -> Bools:
    """Which of these k-grams begin with the begin sign (the last symbol of the alphabet). [M] -> [M]."""
    number = keys // alphabet if below else keys
    for order in reversed(below[1:]):
        number = order.keys[number] // alphabet
    begins: Bools = number == alphabet - 1
    return begins


def _discounted(keys: Ints, counts: Ints, alphabet: int, contexts: int, *, lowest: bool) -> _Order:
    """Subtract the discounts and divide by the contexts' totals. keys, counts [M]; `contexts` (k-1)-grams."""
    discount = np.concatenate([[0.0], _discounts(counts)])
    context = np.zeros_like(keys) if lowest else keys // alphabet
    taken = discount[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=contexts)
    saved = np.bincount(context, weights=taken, minlength=contexts)
    some = np.where(total > 0, total, 1.0)
    backoff = np.where(total > 0, saved / some, 1.0)
    share = (counts - taken) / some[context]
    return _Order(keys, share.astype(np.float32), backoff.astype(np.float32))


def _discounts(counts: Ints) -> Floats:
    """D1, D2, D3+ of modified Kneser-Ney from the counts of counts (Chen & Goodman 1998, equation 26).

    Where too few n-grams occur once to four times to tell, one half stands in, which keeps the order proper.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if not n.all():
        return np.array([0.5, 0.5, 0.5])
    y = n[0] / (n[0] + 2 * n[1])
    return np.array([min(max(i - (i + 1) * y * n[i] / n[i - 1], 0.05), i) for i in (1, 2, 3)])
