"""Attention with a learned bias: torch's plain form, in fp64, is the oracle of values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from mainspring.nn import biased_attention as module
from mainspring.nn.attention import Sight, attend
from mainspring.nn.biased_attention import biased_attention, suits


@pytest.fixture(autouse=True)
def _every_size(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 0)


def drawn(rows, length, lead, bias_rows):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, length, 2, 8, generator=draw).transpose(1, 2) for _ in range(3))
    bias = torch.randn(bias_rows, 2, length - lead, length, generator=draw)
    bias[:, :, 1, 3:] = -math.inf
    bias[:, :, 2] = -math.inf  # sees nothing
    first = torch.randn(1, 2, lead, lead, generator=draw) if lead else None
    return [None if t is None else t.requires_grad_() for t in (q, k, v, bias, first)]


@pytest.mark.parametrize("bias_rows", [1, 3])
@pytest.mark.parametrize("lead", [0, 6])
def test_values_and_gradients(lead, bias_rows):
    given = drawn(3, 11, lead, bias_rows)
    leaves = [t for t in given if t is not None]
    q, k, v, bias, first = given
    sight = Sight(bias, lead=lead, lead_mask=first)
    got = attend(q, k, v, sight, 0.3, 0.0)
    assert "Biased" in type(got.grad_fn).__name__
    wide = [None if t is None else t.detach().double().requires_grad_() for t in given]
    q, k, v, bias, first = wide
    want = F.scaled_dot_product_attention(q[:, :, lead:], k, v, attn_mask=bias, scale=0.3)
    if first is not None:
        k, v = k[:, :, :lead], v[:, :, :lead]
        before = F.scaled_dot_product_attention(q[:, :, :lead], k, v, attn_mask=first, scale=0.3)
        want = torch.cat([before, want], dim=2)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert (got[:, :, lead + 2] == 0).all()
    push = torch.randn_like(got)
    expected = torch.autograd.grad(want, [t for t in wide if t is not None], push.double())
    for a, e in zip(torch.autograd.grad(got, leaves, push), expected, strict=True):
        assert a.shape == e.shape
        torch.testing.assert_close(a.double(), e, atol=1e-5, rtol=1e-5)


def test_large_products_and_default_scale():
    draw = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, 300, 64, generator=draw, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 2, 300, 300, generator=draw, requires_grad=True)
    got = attend(q, k, v, Sight(bias), None, 0.0)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for a, e in zip(
        *(torch.autograd.grad(y.square().sum(), (q, k, v, bias)) for y in (got, want)), strict=True
    ):
        torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)


def test_others_go_to_torch():
    q, k, _v, bias, _ = drawn(2, 8, 0, 1)
    assert suits(q, k, bias)
    assert not suits(q, k, bias.detach()) and not suits(q, k, None)
    assert not suits(q.double(), k.double(), bias.double())
    with torch.no_grad():
        assert not suits(q, k, bias)


def test_an_overflow_is_not_hidden():
    q, k, v, bias, _ = drawn(1, 8, 0, 1)
    q = torch.full_like(q, math.nan)
    assert biased_attention(q, k, v, bias, 1.0)[:, :, 0].isnan().all()
