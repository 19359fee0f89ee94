"""Noise: shares and lengths of spans, the T5 layout, and bounds on how far a token moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data.noise import corrupted, infilled, noise_spans, shuffled


def spans_of(noise: np.ndarray) -> list[int]:
    text = "".join("x" if n else " " for n in noise)
    return [len(part) for part in text.split()]


@given(st.integers(2, 200), st.floats(0.05, 0.9), st.floats(1.0, 8.0), st.integers(0, 99))
def test_spans_have_the_stated_size_and_number(length: int, rate: float, mean: float, seed: int) -> None:
    noise = noise_spans(length, rate, mean, np.random.default_rng(seed))
    wanted = min(max(round(length * rate), 1), length - 1)
    spans = spans_of(noise)
    assert len(noise) == length and not noise[0] and noise.sum() == wanted
    assert len(spans) == max(1, min(round(wanted / mean), wanted, length - wanted))


def test_every_composition_has_the_same_chance() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(3000):
        key = tuple(spans_of(noise_spans(20, 0.25, 1.7, np.random.default_rng(seed))))
        counts[key] = counts.get(key, 0) + 1
    assert set(counts) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert np.array(list(counts.values())) / 3000 == pytest.approx([1 / 6] * 6, abs=0.03)


def test_the_layout_of_t5() -> None:
    """Figure 2: "Thank you for inviting me to your party last week", spans "for inviting" and "last"."""
    ids = np.arange(10, 20)
    noise = np.zeros(10, bool)
    noise[[2, 3, 8]] = True
    source, target = corrupted(ids, noise, [90, 91, 92])
    assert source.tolist() == [10, 11, 90, 14, 15, 16, 17, 91, 19]
    assert target.tolist() == [90, 12, 13, 91, 18]
    assert infilled(ids, noise, 4).tolist() == [10, 11, 4, 14, 15, 16, 17, 4, 19]


@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 99))
def test_source_and_target_hold_the_text_whatever_the_sentinels(length: int, many: int, seed: int) -> None:
    ids = np.arange(100, 100 + length)
    noise = noise_spans(length, 0.4, 2.0, np.random.default_rng(seed))
    source, target = corrupted(ids, noise, list(range(many)))
    parts: dict[int, list[int]] = {}
    for token in target.tolist():
        if token < 100:
            parts[token], at = [], token
        else:
            parts[at].append(token)
    filled = [t for token in source.tolist() for t in (parts[token] if token < 100 else [token])]
    assert filled == ids.tolist() and len(parts) == min(many, len(spans_of(noise)))


@given(st.integers(0, 60), st.floats(0.0, 6.0), st.integers(0, 99))
def test_tokens_move_less_than_the_distance(length: int, distance: float, seed: int) -> None:
    out = shuffled(np.arange(length), distance, np.random.default_rng(seed))
    assert sorted(out.tolist()) == list(range(length))
    moved = np.abs(out - np.arange(length))
    assert length == 0 or moved.max() == 0 or moved.max() < distance


def test_order_does_change() -> None:
    assert (shuffled(np.arange(200), 3.0, np.random.default_rng(0)) != np.arange(200)).mean() > 0.4
