"""Signs and a length: the error is what is missing, and compiled loops give what torch gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.numerics.signs import compress, expand, message_bytes

RUNS = ([1], [8], [7, 9], [64, 1, 1000], [3, 20_000, 17])


def sent(values, error, runs, **options):
    """What a receiver reads, and the error that is left."""
    message, left = torch.empty(message_bytes(runs), dtype=torch.uint8), error.clone()
    compress(values, left, runs, message, **options)
    out = torch.full_like(values, 7.0)
    expand(message, runs, out, native=options.get("native"))
    return out, left, message


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("scale", ["l1", "l2"])
def test_each_run_becomes_signs_of_one_length(native, scale):
    for number, runs in enumerate(RUNS):
        torch.manual_seed(number)
        values, error = torch.randn(2, sum(runs))
        out, left, message = sent(values, error, runs, scale=scale, native=native)
        z = (values + error).double()
        where = 4 * len(runs)
        for part, got in zip(z.split(runs), out.split(runs), strict=True):
            length = part.abs().mean() if scale == "l1" else part.square().mean().sqrt()
            torch.testing.assert_close(got.double(), torch.where(part >= 0, length, -length))
            size = -(-len(part) // 8)
            bits = np.packbits((part >= 0).numpy(), bitorder="little")
            assert np.array_equal(message[where : where + size].numpy(), bits)
            where += size
        assert not message[where:].any() and len(message) % 4 == 0 and len(message) - where < 4
        torch.testing.assert_close(out + left, values + error)


@pytest.mark.parametrize("native", [False, True])
def test_zero_counts_as_positive_and_nothing_hides_what_is_not_finite(native):
    out, left, _ = sent(torch.tensor([0.0, -0.0, 2.0, -2.0]), torch.zeros(4), [4], native=native)
    assert out.tolist() == [1.0, 1.0, 1.0, -1.0] and left.tolist() == [-1.0, -1.0, 1.0, -1.0]
    out, _, _ = sent(torch.tensor([float("nan"), 1.0, 5.0]), torch.zeros(3), [2, 1], native=native)
    assert out.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("native", [False, True])
def test_expand_adds_with_a_weight(native):
    torch.manual_seed(0)
    values, runs = torch.randn(100), [30, 70]
    message = torch.empty(message_bytes(runs), dtype=torch.uint8)
    compress(values, torch.zeros(100), runs, message, native=native)
    once, total = torch.empty(100), torch.ones(100)
    expand(message, runs, once, native=native)
    expand(message, runs, total, weight=0.25, add=True, native=native)
    torch.testing.assert_close(total, 1 + once / 4)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**31))
def test_loops_and_operations_agree(runs, seed):
    values, error = torch.randn(2, sum(runs), generator=torch.Generator().manual_seed(seed))
    plain, compiled = (sent(values, error, runs, native=native) for native in (False, True))
    for mine, theirs in zip(plain, compiled, strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("share", "of_l1", "of_l2"), [(1.0, 0.363, 0.404), (0.1, 0.936, 1.496), (0.01, 0.994, 1.84)]
)
def test_l1_shortens_every_vector_and_l2_does_not(share, of_l1, of_l2):
    """The share of |z|^2 that the error keeps: 1 - E|z|^2 / E z^2, and 2 - 2 E|z| / sqrt(E z^2)."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2**18, generator=generator) * (torch.rand(2**18, generator=generator) < share)
    for scale, want in (("l1", of_l1), ("l2", of_l2)):
        _, left, _ = sent(values, torch.zeros_like(values), [values.numel()], scale=scale)
        kept = float(left.square().sum() / values.square().sum())
        assert kept == pytest.approx(want, abs=0.01), scale


def test_threads_do_not_change_the_result():
    values = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(sent(values, torch.zeros_like(values), [300_000], native=True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
