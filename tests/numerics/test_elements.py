"""Scalar formats against ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from mainspring.numerics.elements import E2M1, E2M3, E3M2, E4M3, E5M2

PEERS = {
    E5M2: ml_dtypes.float8_e5m2,
    E4M3: ml_dtypes.float8_e4m3fn,
    E3M2: ml_dtypes.float6_e3m2fn,
    E2M3: ml_dtypes.float6_e2m3fn,
    E2M1: ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("element", PEERS, ids=lambda e: e.name)
def test_every_code_has_its_value(element):
    codes = np.arange(2**element.bits, dtype=np.uint8)
    want = codes.view(PEERS[element]).astype(np.float32)
    assert np.array_equal(element.table().numpy(), want, equal_nan=True)


@pytest.mark.parametrize("element", PEERS, ids=lambda e: e.name)
def test_numbers_are_rounded_to_the_nearest_and_ties_to_even(element):
    grid = element.table()
    grid = grid[grid.isfinite()].unique()
    between = (grid[1:] + grid[:-1]) / 2
    near = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * element.largest / 3
    tiny = torch.tensor([0.0, -0.0, 1e-30, -1e-30])
    x = torch.cat([grid, between, near, tiny]).clamp(-element.largest, element.largest)
    want = x.numpy().astype(PEERS[element]).astype(np.float32)
    got = grid_value(element, element.encode(x, "nearest"))
    assert np.array_equal(got.numpy(), want)
    assert np.array_equal(np.signbit(got.numpy()), np.signbit(want))


@pytest.mark.parametrize("element", PEERS, ids=lambda e: e.name)
def test_what_is_too_large_becomes_the_largest(element):
    x = torch.tensor([1.01, 2.0, 1e30]) * element.largest
    x = torch.cat([x, -x])
    got = grid_value(element, element.encode(x, "nearest"))
    assert torch.equal(got.abs(), torch.full((6,), element.largest)) and (got.sign() == x.sign()).all()


@pytest.mark.parametrize("element", PEERS, ids=lambda e: e.name)
def test_rounding_to_zero_and_by_chance(element):
    x = torch.rand(500, generator=torch.Generator().manual_seed(1)) * element.largest
    grid = element.table()
    grid = grid[grid.isfinite() & (grid >= 0)].unique()
    below = grid[torch.searchsorted(grid, x, right=True) - 1]
    assert torch.equal(grid_value(element, element.encode(x, "zero")), below)
    draws = torch.stack(
        [
            grid_value(element, element.encode(x, "stochastic", torch.Generator().manual_seed(seed)))
            for seed in range(400)
        ]
    )
    above = grid[(torch.searchsorted(grid, x, right=True)).clamp(max=len(grid) - 1)]
    assert ((draws == below) | (draws == above)).all()
    # Unbiased: the mean of 400 draws is within 5 standard errors of x.
    assert ((draws.mean(0) - x).abs() <= 5 * (above - below) / 2 / 20).all()


def grid_value(element, codes):
    return element.table()[codes.long()]
