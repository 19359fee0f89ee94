"""Weights in 1 to 16 bits: by the definitions, element by element; unbiased where rounding is stochastic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.errors import UsageError
from mainspring.numerics import in_bits


def by_definition(values: list[float], bits: int, symmetric: bool) -> list[float]:
    """One group."""
    mean = sum(abs(v) for v in values) / len(values)
    sign = lambda v: (v > 0) - (v < 0)  # noqa: E731
    if bits == 1:
        return [sign(v) * mean for v in values]
    if bits == 2:
        kept = [abs(v) for v in values if abs(v) > 0.7 * mean]
        return [sign(v) * sum(kept) / len(kept) if abs(v) > 0.7 * mean else 0.0 for v in values]
    if symmetric:
        step = 2 * max(map(abs, values)) / 2**bits or 1.0
        return [min(max(round(v / step), -(2 ** (bits - 1))), 2 ** (bits - 1) - 1) * step for v in values]
    step = (max(values) - min(values)) / 2**bits or 1.0
    least = round(min(values) / step) * step
    return [min(max(round((v - least) / step), 0), 2**bits - 1) * step + least for v in values]


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("symmetric", [True, False])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.sampled_from([1, 2, 4]))
def test_values_are_the_definitions(bits: int, symmetric: bool, seed: int, groups: int) -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).double().float()
    found = in_bits(weight, bits, groups=groups, symmetric=symmetric).reshape(groups, -1)
    for row, given_row in zip(found, weight.reshape(groups, -1), strict=True):
        want = torch.tensor(by_definition(given_row.tolist(), bits, symmetric))
        step = 2 * given_row.abs().max() / 2**bits
        off = (row - want).abs()
        # In fp32 an element may lie on the other side of the middle between two steps.
        assert float(off.max()) <= float(step) * 1.01 and int((off > 1e-3 * step + 1e-6).sum()) <= 1
    assert len(found[0].unique()) <= 2**bits


def test_stochastic_rounding_has_the_right_mean_and_a_seed() -> None:
    weight = torch.linspace(-0.95, 0.7, 33)
    draw = torch.Generator().manual_seed(0)
    rounds = torch.stack([in_bits(weight, 4, rounding="stochastic", generator=draw) for _ in range(4000)])
    step = 2 * 0.95 / 16
    assert float((rounds.mean(0) - weight).abs().max()) < 4 * step / 2 / 4000**0.5
    again = [
        in_bits(weight, 4, rounding="stochastic", generator=torch.Generator().manual_seed(5)) for _ in "ab"
    ]
    assert torch.equal(*again)


def test_zeros_stay_and_dtypes_too() -> None:
    for bits in range(1, 17):
        for symmetric in (True, False):
            found = in_bits(torch.zeros(2, 3, dtype=torch.bfloat16), bits, symmetric=symmetric)
            assert found.dtype == torch.bfloat16 and not found.any()


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="1 to 16 bits, not 17"):
        in_bits(torch.zeros(2), 17)
    with pytest.raises(UsageError, match="into 5 groups; nearest legal number: 4"):
        in_bits(torch.zeros(4, 3), 8, groups=5)
