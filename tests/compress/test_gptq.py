"""GPTQ: the exact solution for what is left free, column by column; never worse than to the nearest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mainspring.compress.gptq import gptq, round_to_nearest
from mainspring.errors import UsageError
from mainspring.numerics import Format, format_named

FORMATS = ["int8", "int4", "int3", "int4-g5", "msfp12", "mxfp4", "mxfp8_e4m3", "mxint8"]


def inputs(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Inputs that hang together: half as many causes as columns, and noise."""
    draw = torch.Generator().manual_seed(seed)
    causes = torch.randn(rows, columns // 2 + 1, generator=draw)
    noise = torch.randn(rows, columns, generator=draw)
    return causes @ torch.randn(columns // 2 + 1, columns, generator=draw) + noise


def hessian_of(x: Tensor) -> Tensor:
    return x.double().T @ x.double() / len(x)


def by_least_squares(weight: Tensor, x: Tensor, form: Format) -> Tensor:
    """Round a column; solve for all later ones anew, by least squares on the inputs; go on."""
    values = weight.double().clone()
    columns = weight.shape[1]
    width = form.box or columns
    target = x.double() @ weight.double().T
    scales = None
    for j in range(columns):
        if j % width == 0:
            scales = form.scales(values[:, j : j + width].float())
        column = values[:, j : j + 1].float()
        values[:, j : j + 1] = form.values(form.codes(column, scales, "nearest", None), scales).double()
        if j + 1 < columns:
            left = target - x.double()[:, : j + 1] @ values[:, : j + 1].T
            values[:, j + 1 :] = torch.linalg.lstsq(x.double()[:, j + 1 :], left).solution.T
    return values.float()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("block", [2, 128])
def test_free_columns_are_the_least_squares_solution(name: str, block: int) -> None:
    form, x = format_named(name), inputs(60, 12)
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    found = gptq(weight, hessian_of(x), form, damping=0.0, block=block)
    brute = by_least_squares(weight, x, form)
    error = (x.double() @ (brute - weight).double().T).square().mean(0)
    better = error < round_to_nearest(weight, form, hessian_of(x)).error
    assert better.any()
    torch.testing.assert_close(found.values[better], brute[better], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), columns=st.integers(1, 20))
def test_no_row_is_worse_than_rounded_to_the_nearest(name: str, seed: int, rows: int, columns: int) -> None:
    form, x = format_named(name), inputs(rows, columns, seed)
    weight = torch.randn(5, columns, generator=torch.Generator().manual_seed(seed + 1))
    found = gptq(weight, hessian_of(x), form)
    nearest = round_to_nearest(weight, form, hessian_of(x))
    assert bool((found.error <= nearest.error).all())
    told = (x.double() @ (found.values - weight).double().T).square().mean(0)
    torch.testing.assert_close(found.error, told, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(form.decode(found.encoded), found.values, rtol=0, atol=0)
    torch.testing.assert_close(nearest.values, form.quantize(weight), rtol=0, atol=0)


def test_it_is_much_better_where_inputs_hang_together() -> None:
    x = inputs(400, 64, 3)
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(4))
    form = format_named("int4")
    ours, nearest = gptq(weight, hessian_of(x), form), round_to_nearest(weight, form, hessian_of(x))
    assert ours.error.sum() < 0.5 * nearest.error.sum()


def test_inputs_that_never_come_are_rounded_by_themselves() -> None:
    x = inputs(50, 10)
    x[:, 4] = 0
    weight = torch.randn(3, 10, generator=torch.Generator().manual_seed(5))
    found = gptq(weight, hessian_of(x), format_named("int8"))
    step = weight.abs().amax(1) / 127
    assert bool(((found.values[:, 4] - weight[:, 4]).abs() <= step).all())
    nothing = gptq(weight, torch.zeros(10, 10), format_named("int8"))
    torch.testing.assert_close(nothing.values, format_named("int8").quantize(weight))


def test_a_hessian_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Hessian of 4 x 4; got \[3, 3\]"):
        gptq(torch.zeros(2, 4), torch.zeros(3, 3), format_named("int8"))
    with pytest.raises(UsageError, match="activations are finite"):
        gptq(torch.zeros(2, 1), torch.full((1, 1), torch.nan), format_named("int8"))
