"""Sums over ranks: like a plain sum in the order of ranks; the output may be one of the terms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.comm.sums import BLOCK, Scratch, reduce_into

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def plain(terms, op, dtype):
    """In fp32 (16-bit) or the dtype itself, left to right, rounded once."""
    wide = torch.float32 if dtype.itemsize == 2 and dtype.is_floating_point else dtype
    total = terms[0].to(wide)
    for term in terms[1:]:
        term = term.to(wide)
        if op in ("sum", "mean"):
            total = total + term
        else:
            total = torch.where((total > term) == (op == "max"), total, term)
    return (total / len(terms) if op == "mean" else total).to(dtype)


@given(
    seed=st.integers(0, 99),
    ranks=st.integers(1, 8),
    n=st.sampled_from([0, 1, 7, 64, 1001, BLOCK, BLOCK + 3]),
    dtype=st.sampled_from([*FLOATS, torch.int64, torch.int32, torch.uint8]),
    op=st.sampled_from(["sum", "mean", "max", "min"]),
    alias=st.none() | st.integers(0, 7),
)
def test_equals_the_plain_sum(seed, ranks, n, dtype, op, alias):
    if op == "mean" and not dtype.is_floating_point:
        op = "sum"
    generator = torch.Generator().manual_seed(seed)
    terms = [(torch.randn(n, generator=generator).abs() * 50).to(dtype) for _ in range(ranks)]
    want = plain(terms, op, dtype)
    out = terms[alias] if alias is not None and alias < ranks else torch.empty(n, dtype=dtype)
    reduce_into(out, terms, op, Scratch())
    assert torch.equal(out, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_round_once(dtype):
    # 1 + 1/512 + 1/512: each small term alone is lost in bf16, and half a unit in fp16 sums is kept.
    small = torch.finfo(dtype).eps / 4
    terms = [torch.tensor([x], dtype=dtype) for x in (1.0, small, small, small, small)]
    out = torch.empty(1, dtype=dtype)
    reduce_into(out, terms, "sum", Scratch())
    assert out.item() == 1.0 + torch.finfo(dtype).eps
    wide = torch.empty(1)
    reduce_into(wide, terms[:2], "sum", Scratch())
    assert wide.item() == 1.0 + small
    large = [torch.tensor([torch.finfo(dtype).max], dtype=dtype)] * 2
    reduce_into(out, large, "mean", Scratch())
    # The sum passes the largest fp16 number, its half does not.
    assert dtype == torch.bfloat16 or out.item() == torch.finfo(dtype).max
