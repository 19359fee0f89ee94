"""The baselines beside a slow twin in dictionaries, and as probability distributions."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import DataError, UsageError
from mainspring.evaluate.ngram import KneserNey, Unigram
from mainspring.evaluate.stream import Stream

Gram = tuple[object, ...]
BEGIN = "<begin>"


class DictionaryKneserNey:
    """Interpolated modified Kneser-Ney read off Chen & Goodman's formulae, one n-gram at a time."""

    def __init__(self, documents: list[list[int]], vocab_size: int, order: int) -> None:
        self.vocab_size, self.order = vocab_size, order
        texts = [[BEGIN, *d] for d in documents if d]
        raw = [
            Counter(tuple(t[i : i + k]) for t in texts for i in range(len(t) - k + 1))
            for k in range(order + 1)
        ]
        self.count: list[dict[Gram, int]] = [{}]
        for k in range(1, order + 1):
            if k == order:
                adjusted = dict(raw[k])
            else:
                left: dict[Gram, set[object]] = defaultdict(set)
                for gram in raw[k + 1]:
                    left[gram[1:]].add(gram[0])
                adjusted = {g: raw[k][g] if g[0] == BEGIN else len(left[g]) for g in raw[k]}
            adjusted.pop((BEGIN,), None)
            self.count.append(adjusted)
        self.discounts = [self._discounts(c) for c in self.count]

    @staticmethod
    def _discounts(count: dict[Gram, int]) -> list[float]:
        n = [sum(1 for v in count.values() if v == c) for c in range(5)]
        if not all(n[1:5]):
            return [0, 0.5, 0.5, 0.5]
        y = n[1] / (n[1] + 2 * n[2])
        return [0] + [min(max(i - (i + 1) * y * n[i + 1] / n[i], 0.05), i) for i in (1, 2, 3)]

    def p(self, context: Gram, token: int) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        return self._p(context, token)

    def _p(self, context: Gram, token: int) -> float:
        k = len(context) + 1
        below = 1 / self.vocab_size if k == 1 else self._p(context[1:], token)
        after = {g: c for g, c in self.count[k].items() if g[:-1] == context}
        if not after:
            return below
        d, total = self.discounts[k], sum(after.values())
        saved = sum(d[min(c, 3)] for c in after.values())
        c = after.get((*context, token), 0)
        return (c - d[min(c, 3)]) / total + saved / total * below


def documents(seed: int, vocab: int, count: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab + 1) ** 1.2
    p = weights / weights.sum()
    return [rng.choice(vocab, size=rng.integers(1, 14), p=p).tolist() for _ in range(count)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_dictionary_twin(order: int) -> None:
    train, held = documents(1, 7, 60), documents(2, 7, 15)
    fast = KneserNey(Stream.of_documents(train), 7, order=order)
    slow = DictionaryKneserNey(train, 7, order)
    expected = [np.log2(slow.p((BEGIN, *d[:i]), d[i])) for d in held for i in range(len(d))]
    assert fast.log2_probabilities(Stream.of_documents(held)) == pytest.approx(expected, abs=1e-5)
    for context in ([], [3], [6, 6, 6, 6, 6, 6], [0, 1, 0, 1]):
        here = [slow.p(tuple(context), w) for w in range(7)]
        assert fast.distribution(context, begins=False) == pytest.approx(here, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 6), st.booleans())
def test_sums_to_one_in_every_context(seed: int, vocab: int, order: int, begins: bool) -> None:
    model = KneserNey(Stream.of_documents(documents(seed, vocab, 8)), vocab, order=order)
    for context in documents(seed + 1, vocab, 5):
        p = model.distribution(context, begins=begins)
        assert p.sum() == pytest.approx(1, abs=1e-5)
        assert (p > 0).all()


def test_documents_do_not_leak_into_one_another() -> None:
    model = KneserNey(Stream.of_documents([[0, 1, 2, 3]] * 5 + [[4, 5]] * 3), 6)
    alone = model.log2_probabilities(Stream.of_documents([[2, 3]]))
    after = model.log2_probabilities(Stream.of_documents([[0, 1], [2, 3]]))[2:]
    joined = model.log2_probabilities(Stream.of_documents([[0, 1, 2, 3]]))[2:]
    assert after.tolist() == alone.tolist()
    assert joined[0] > after[0] + 1


def test_unigram_is_proper_and_counts() -> None:
    model = Unigram(Stream.of_documents([[0, 0, 1]]), 4)
    assert model.distribution() == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7])
    assert model.log2_probabilities(Stream.of_documents([[1, 3]])) == pytest.approx(np.log2([2 / 7, 1 / 7]))


def test_wrong_input_is_named() -> None:
    stream = Stream.of_documents([[0, 9]])
    with pytest.raises(DataError, match="from 0 to 9, but the vocabulary has 5"):
        KneserNey(stream, 5)
    with pytest.raises(UsageError, match="order = 0"):
        KneserNey(stream, 10, order=0)
    with pytest.raises(DataError, match="0 tokens"):
        KneserNey(Stream.of_documents([]), 10)


def test_a_million_tokens_in_seconds() -> None:
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, size=1_000_000) - 1, 49_999)
    stream = Stream(ids, rng.random(len(ids)) < 0.01)
    start = time.perf_counter()
    model = KneserNey(stream, 50_000)
    model.log2_probabilities(Stream(ids[:100_000], stream.starts[:100_000]))
    assert time.perf_counter() - start < 20  # about 2 s on a quiet core
