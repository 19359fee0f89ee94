"""Encoding in pieces and batches gives what encoding whole gives."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data import encoding
from mainspring.data.encoding import cut, encode
from mainspring.data.hash_sample import HashSample
from mainspring.text import Tokenizer

DTYPE = np.dtype("<u2")
words = st.lists(
    st.sampled_from(["a", "bc", " ", "  ", "\n", "'s", "7", "é", "日本", "\t", ".", "\u00a0", "Ω"])
)


@given(words.map("".join), st.integers(1, 12))
def test_pieces_of_byte_level_text_have_the_ids_of_the_whole(
    tokenizer: Tokenizer, text: str, limit: int
) -> None:
    """Where a cut is at white space after a letter; other cuts are only there to bound the length."""
    parts = cut(text, limit)
    assert "".join(parts) == text
    assert all(0 < len(part) <= limit for part in parts) or text == ""
    starts = np.cumsum([len(part) for part in parts])[:-1].tolist()
    if all(text[s].isspace() and text[s - 1].isalpha() for s in starts):
        ids = [i for part in tokenizer.encode_batch(parts) for i in part]
        assert ids == tokenizer.encode(text)


def test_batches_and_order(tokenizer: Tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(encoding, "BATCH", 500)
    monkeypatch.setattr(encoding, "PIECE", 64)
    texts = [(i, "all human beings " * (i % 40) + str(i)) for i in range(300)]
    found = list(encode(iter(texts), tokenizer, DTYPE))
    assert [e.item for e in found] == list(range(300))
    assert all(e.ids.dtype == DTYPE for e in found)
    assert [e.ids.tolist() for e in found] == tokenizer.encode_batch([t for _, t in texts])


def test_nothing_gives_nothing(tokenizer: Tokenizer) -> None:
    assert list(encode(iter([]), tokenizer, DTYPE)) == []
    assert [e.ids.size for e in encode(iter([(0, "")]), tokenizer, DTYPE)] == [0]


def test_long_text_without_white_space(tokenizer: Tokenizer) -> None:
    text = "x" * 300_000
    (found,) = encode(iter([(0, text)]), tokenizer, DTYPE)
    assert tokenizer.decode(found.ids.tolist()) == text


@given(
    st.lists(st.tuples(st.text("ab", max_size=9), st.integers(0, 2**64 - 1)), unique_by=lambda p: p[1]),
    st.randoms(),
)
def test_sample_is_the_smallest_hashes_whatever_the_order(pairs, random) -> None:
    def sampled(order):
        sample = HashSample(30)
        for text, mark in order:
            sample.add(text, mark, len(text))
        assert sample.bytes <= 30 or len(sample) == 1
        return list(sample.texts())

    shuffled = random.sample(pairs, len(pairs))
    assert sampled(pairs) == sampled(shuffled)
    ordered = [text for text, _ in sorted(pairs, key=lambda p: p[1])]
    assert sampled(pairs) == ordered[: len(sampled(pairs))]


def test_sample_cuts_one_long_text() -> None:
    sample = HashSample(10)
    sample.add("x" * 100, 5, 100)
    assert list(sample.texts()) == ["x" * 10]
