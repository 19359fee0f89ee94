"""Rows of a large table: torch's embedding is the oracle, of values and of both orders of gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mainspring.nn import lookup as module
from mainspring.nn.lookup import Table, lookup


@pytest.fixture(autouse=True)
def _every_table(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 0)


def case(dtype):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 6, generator=generator).to(dtype).requires_grad_()
    ids = torch.randint(0, 50, (4, 30), generator=generator)
    return table, ids, torch.randn(4, 30, 6, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_is_the_embedding(dtype):
    table, ids, push = case(dtype)
    got = lookup(table, ids)
    assert got.grad_fn is not None and "mainspring" in type(got.grad_fn).__name__
    assert torch.equal(got, F.embedding(ids, table))
    got.backward(push)
    exact = table.detach().double().requires_grad_()
    F.embedding(ids, exact).backward(push.double())
    # Sums in fp32: one rounding, whatever the number of repetitions.
    torch.testing.assert_close(table.grad, exact.grad.to(dtype))
    assert (table.grad[~torch.isin(torch.arange(50), ids)] == 0).all()


def test_gradients_of_gradients():
    table, ids, push = case(torch.float64)
    push.requires_grad_()
    torch.autograd.gradcheck(lambda t: lookup(t, ids[:1, :4]), table)
    torch.autograd.gradgradcheck(lambda t: lookup(t, ids[:1, :4]), table, push[:1, :4])


def test_the_gradient_is_kept_whole_and_adds_up():
    table, ids, push = case(torch.float32)
    for _ in range(2):
        lookup(table, ids).backward(push)
    once = torch.autograd.grad(F.embedding(ids, table), table, push)[0]
    torch.testing.assert_close(table.grad, 2 * once)
    table.grad.mul_(0.5).add_(1.0)  # what is not named can be written too
    torch.testing.assert_close(table.grad, once + 1)


def test_compiled_and_tied():
    torch.manual_seed(0)
    layer = Table(40, 8)

    def tied(ids):
        return (layer(ids) @ layer.weight.t()).square().sum()

    ids = torch.randint(0, 40, (3, 5))
    tied(ids).backward()
    want, layer.weight.grad = layer.weight.grad, None
    torch.compile(tied, backend="aot_eager", fullgraph=True)(ids).backward()
    torch.testing.assert_close(layer.weight.grad, want)


def test_others_take_torchs_way():
    table, ids, _ = case(torch.float32)
    with torch.no_grad():
        assert torch.equal(lookup(table, ids), F.embedding(ids, table))
    assert lookup(nn.Parameter(table.to("meta")), ids.to("meta")).shape == (4, 30, 6)
