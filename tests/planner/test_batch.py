"""Cutting the global batch: exact, largest that fits, and refusals that name the nearest legal value."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import ConfigError, PlanError
from mainspring.parallel import Plan
from mainspring.planner import split_batch


@given(
    ranks=st.integers(1, 64),
    per_rank=st.integers(1, 400),
    seq_len=st.sampled_from([16, 128, 512, 8192]),
    row_bytes=st.floats(1, 1e9),
    memory=st.floats(1, 1e12),
    micro_tokens=st.sampled_from([0, 512, 4096]),
)
def test_rows_are_used_once_and_micro_batches_are_the_largest_that_fit(
    ranks, per_rank, seq_len, row_bytes, memory, micro_tokens
):
    tokens = ranks * per_rank * seq_len
    if row_bytes > memory:
        with pytest.raises(PlanError):
            split_batch(tokens, seq_len, Plan(data=ranks), row_bytes, memory, micro_tokens=micro_tokens)
        return
    batch = split_batch(tokens, seq_len, Plan(data=ranks), row_bytes, memory, micro_tokens=micro_tokens)
    assert batch.rows == ranks * batch.rows_per_rank == ranks * batch.micro_rows * batch.accumulation
    assert batch.rows * seq_len == tokens

    def fits(rows):
        short = not micro_tokens or rows * seq_len <= micro_tokens or rows == 1
        return short and rows * row_bytes <= memory

    assert fits(batch.micro_rows)
    assert not any(fits(rows) for rows in range(batch.micro_rows + 1, per_rank + 1) if per_rank % rows == 0)


@given(tokens=st.integers(1, 10**6), seq_len=st.integers(1, 3000), ranks=st.integers(1, 16))
def test_the_nearest_legal_values_are_legal(tokens, seq_len, ranks):
    plan = Plan(data=ranks)
    try:
        split_batch(tokens, seq_len, plan, 1.0, 1e18)
    except ConfigError as error:
        assert f"train.batch_tokens = {tokens}" in str(error)
        near = [int(n) for n in re.findall(r"\d+", str(error).split("nearest: ")[1])]
        assert near and all(n > 0 and abs(n - tokens) < seq_len * ranks for n in near)
        for n in near:
            split_batch(n, seq_len, plan, 1.0, 1e18)
    else:
        assert tokens % (seq_len * ranks) == 0


def test_a_row_that_does_not_fit_is_told_in_mebibytes():
    with pytest.raises(PlanError, match=r"512 tokens needs 100 MiB .* 64 MiB .* plan.remat=true"):
        split_batch(1024, 512, Plan(data=2), 100 * 2**20, 64 * 2**20)
