"""The fused cross entropy against torch's, over types, pieces, ignored rows and extremes."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data.batch import IGNORE
from mainspring.objectives import summed_cross_entropy
from mainspring.objectives.cross_entropy import PIECE


def reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")


@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 200), st.floats(0, 1), st.integers(0, 99))
def test_value_and_gradient_are_torchs(rows: int, vocab: int, piece: int, ignored: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab, generator=generator) * 5).requires_grad_()
    labels = torch.randint(vocab, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < ignored] = IGNORE
    with patch.dict(PIECE, cpu=piece):
        ours = summed_cross_entropy(logits, labels)
    (mine,) = torch.autograd.grad(ours * 0.7, logits)
    theirs = reference(logits, labels)
    (expected,) = torch.autograd.grad(theirs * 0.7, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def test_bf16_logits_are_summed_in_fp32_and_get_bf16_gradients() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(300, 1000) * 3).bfloat16().requires_grad_()
    labels = torch.randint(1000, (300,))
    ours, theirs = summed_cross_entropy(logits, labels), reference(logits, labels)
    assert ours.dtype == torch.float32 and ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    (mine,) = torch.autograd.grad(ours / 300, logits)
    (expected,) = torch.autograd.grad(theirs / 300, logits)
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine.float(), expected.float(), rtol=2**-7, atol=1e-9)
    # No bias: the errors are of rounding each element, not of a common factor.
    assert mine.double().abs().sum().item() == pytest.approx(expected.double().abs().sum().item(), rel=1e-4)


def test_extremes_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e30, 1e30, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([1, 1, 2])
    loss = summed_cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(2e4 + math.log(3))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()


def test_what_is_not_finite_is_not_hidden() -> None:
    for bad in (math.nan, math.inf):
        logits = torch.zeros(2, 3)
        logits[1, 0] = bad
        assert not summed_cross_entropy(logits, torch.tensor([0, 1])).isfinite()


def test_without_gradients_none_is_made() -> None:
    with torch.no_grad():
        loss = summed_cross_entropy(torch.zeros(2, 4, requires_grad=True), torch.tensor([0, IGNORE]))
    assert loss.item() == pytest.approx(math.log(4)) and not loss.requires_grad
