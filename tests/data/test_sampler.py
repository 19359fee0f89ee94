"""The global order: pure, in proportion in every prefix, epoch by epoch, the same for any number of ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.config import parse
from mainspring.data import DataConfig, Mixture, TokenData, mixture_of, sample
from mainspring.data.sampler import _bounds, _visits, epochs, samples
from mainspring.errors import ConfigError, DataError

MIXTURE = Mixture(("a", "b", "c"), (100, 7, 1000), (0.5, 0.2, 0.3))

mixtures = st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 1.0)), min_size=1, max_size=6).map(
    lambda pairs: Mixture.of(
        {f"s{i}": rows for i, (rows, _) in enumerate(pairs)}, {f"s{i}": w for i, (_, w) in enumerate(pairs)}
    )
)


@given(mixtures, st.integers(0, 5), st.integers(0, 10**9))
def test_pure_and_independent_of_the_slice(mixture: Mixture, seed: int, start: int) -> None:
    """Any split into ranks and steps, also one begun anew at any index, gives the same samples."""
    chosen, rows = samples(seed, mixture, start, start + 48)
    for size in (1, 7, 16):
        parts = [
            samples(seed, mixture, at, min(at + size, start + 48)) for at in range(start, start + 48, size)
        ]
        assert np.concatenate([c for c, _ in parts]).tolist() == chosen.tolist()
        assert np.concatenate([r for _, r in parts]).tolist() == rows.tolist()
    assert sample(seed, mixture, start) == (mixture.names[chosen[0]], rows[0])


@given(mixtures, st.integers(0, 5))
def test_every_prefix_is_in_proportion(mixture: Mixture, seed: int) -> None:
    chosen, _ = samples(seed, mixture, 0, 2000)
    counts = np.cumsum(chosen[:, None] == np.arange(len(mixture.names)), axis=0)
    expected = np.arange(1, 2001)[:, None] * np.array(mixture.weights)
    assert np.abs(counts - expected).max() < 5


@given(mixtures, st.integers(0, 5))
def test_each_epoch_takes_every_row_once(mixture: Mixture, seed: int) -> None:
    chosen, rows = samples(seed, mixture, 0, 3000)
    for place, size in enumerate(mixture.rows):
        own = rows[chosen == place]
        for epoch in range(len(own) // size):
            assert sorted(own[epoch * size : (epoch + 1) * size].tolist()) == list(range(size))
        tail = own[len(own) // size * size :]
        assert len(set(tail.tolist())) == len(tail)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    single = Mixture(("a",), (200,), (1.0,))
    _, rows = samples(3, single, 0, 400)
    assert rows[:200].tolist() != rows[200:].tolist()
    assert samples(4, single, 0, 200)[1].tolist() != rows[:200].tolist()
    assert epochs(3, single, 400) == {"a": 2.0}


@given(st.integers(0, 3000), st.integers(0, 2**48 - 1), st.integers(0, 2**48), st.integers(0, 2**48))
def test_visits_are_counted_exactly(count: int, offset: int, one: int, other: int) -> None:
    """Oracle: the points themselves."""
    low, high = min(one, other), max(one, other)
    points = [(i * 173961102589771 + offset) % 2**48 for i in range(count)]
    assert _visits(count, offset, low, high) == sum(low <= p < high for p in points)


def test_far_ahead_costs_nothing() -> None:
    late = 2**47
    chosen, rows = samples(0, MIXTURE, late, late + 1000)
    assert Counter(chosen.tolist())[0] == pytest.approx(500, abs=4)
    assert all(row < MIXTURE.rows[c] for c, row in zip(chosen, rows, strict=True))
    assert epochs(0, MIXTURE, late)["b"] == pytest.approx(0.2 * late / 7, rel=1e-9)


def test_indices_are_checked() -> None:
    with pytest.raises(DataError, match="not within 0"):
        samples(0, MIXTURE, -1, 4)
    with pytest.raises(DataError, match="not within 0"):
        samples(0, MIXTURE, 5, 4)


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=400))
def test_bounds_cover_everything(weights: list[float]) -> None:
    bounds = _bounds(tuple(weights))
    assert bounds[0] == 0
    assert bounds[-1] == 2**48
    assert bounds == sorted(bounds)


def config(**settings: object) -> DataConfig:
    return parse(DataConfig, {"path": "x", "seq_len": 64, **settings})


def test_alpha_shapes_the_mixture(data: TokenData) -> None:
    """p_i is proportional to n_i^alpha."""
    tokens = {name: stream.tokens for name, stream in data.split("train").items()}
    for alpha in (0.0, 0.3, 1.0):
        mixture = mixture_of(data, config(alpha=alpha))
        powers = {name: count**alpha for name, count in tokens.items()}
        expected = [powers[name] / sum(powers.values()) for name in mixture.names]
        assert mixture.weights == pytest.approx(expected)
    assert mixture.rows == tuple((tokens[name] - 1) // 64 for name in mixture.names)


def test_explicit_weights(data: TokenData) -> None:
    mixture = mixture_of(data, config(weights={"docs": 3, "udhr": 1}))
    assert dict(zip(mixture.names, mixture.weights, strict=True)) == pytest.approx(
        {"docs": 0.75, "udhr": 0.25}
    )
    assert mixture_of(data, config(weights={"docs": 1})).names == ("docs",)
    with pytest.raises(ConfigError, match=r"data.weights.dosc: no such source; did you mean 'docs'\?"):
        mixture_of(data, config(weights={"dosc": 1}))
    with pytest.raises(ConfigError, match="is 0 or more"):
        mixture_of(data, config(weights={"docs": -1.0}))
    with pytest.raises(DataError, match="mixture is empty"):
        mixture_of(data, config(weights={"docs": 0.0}))


def test_rows_too_long_are_an_error(data: TokenData) -> None:
    with pytest.raises(DataError, match="no row of seq_len = 10000000 fits: the longest stream has"):
        mixture_of(data, config(seq_len=10_000_000))
