"""A backward in two halves gives the gradients of one, and those who listen hear them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from mainspring.parallel.pipeline.halves import backward_inputs


class Crossed(nn.Module):
    """Weights that meet the input at one place, at two, at overlapping places, and not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.third = (nn.Linear(6, 6) for _ in range(3))
        self.table = nn.Parameter(torch.randn(4, 6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor, lent: Tensor) -> Tensor:
        y = torch.tanh(self.one(x))
        y = y + self.two(self.norm(y))  # the norm is met twice, the second layer behind the first
        y = self.two(self.norm(y)) * self.one(self.table).sum(0)
        return self.third(y) @ lent


@pytest.mark.parametrize("lends", [True, False])
def test_the_halves_are_the_whole(lends: bool) -> None:
    torch.manual_seed(0)
    model = Crossed()
    x = torch.randn(3, 6, requires_grad=True)
    lent = torch.randn(6, 5, requires_grad=lends)
    gradient = torch.randn(3, 5)
    model(x, lent).backward(gradient)
    inputs = [x, lent] if lends else [x]
    want = {n: p.grad for n, p in model.named_parameters()}, [t.grad for t in inputs]
    model.zero_grad()
    for tensor in inputs:
        tensor.grad = None
    heard: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: heard.append(name))
    last: list[bool] = []

    def context(final: bool):
        last.append(final)
        return nullcontext()

    second = backward_inputs([model(x, lent)], [gradient], inputs)
    for got, wanted in zip(inputs, want[1], strict=True):
        torch.testing.assert_close(got.grad, wanted)
    assert all(p.grad is None for p in model.parameters())
    second(context)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[0][name], msg=name)
    assert set(heard) == set(want[0])
    assert last[-1] and not any(last[:-1])
