"""The first tensor that is not finite, in each of the places where it can arise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mainspring.train.nonfinite import describe, is_finite


class Boundary(torch.autograd.Function):
    """The identity, with a gradient that is NaN for its second input only."""

    @staticmethod
    def forward(ctx: object, x: Tensor, weight: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.full((3,), math.nan)


class Bad(nn.Module):
    """Fails in the way that `kind` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "activation":
            return torch.log(x * 0 - 1)
        if self.kind == "gradient":
            return torch.sqrt(x * 0) * self.gain  # finite, with an infinite slope at 0
        if self.kind == "parameter gradient":
            return Boundary.apply(x, self.gain)  # type: ignore[no-any-return]
        return x


def network(kind: str) -> tuple[nn.Module, Callable[[], None]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), Bad(kind), nn.Linear(3, 3))

    def run() -> None:
        model(torch.ones(2, 3)).sum().backward()

    return model, run


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("activation", "output of module '1' (Bad): 6 NaN and 0 infinite of 6 elements, shape [2, 3]"),
        ("gradient", "gradient of the output of module '0' (Linear): 6 NaN"),
        ("parameter gradient", "gradient of parameter 'gain' of module '1' (Bad): 3 NaN and 0 infinite of 3"),
    ],
)
def test_the_culprit_is_named(kind: str, said: str) -> None:
    model, run = network(kind)
    assert describe(model, run).startswith(said)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules()), "the hooks are gone"


def test_a_poisoned_parameter_comes_before_what_it_spoils() -> None:
    model, run = network("activation")
    with torch.no_grad():
        model[2].weight[1, 2] = math.inf
    assert describe(model, run) == (
        "parameter 'weight' of module '2' (Linear): 0 NaN and 1 infinite of 9 elements, shape [3, 3]"
    )


def test_what_does_not_come_again_is_said_so() -> None:
    model, run = network("nothing")
    assert describe(model, run).startswith("all tensors are finite on a second pass")


def test_a_sum_that_overflows_is_finite_all_the_same() -> None:
    assert is_finite(torch.full((4,), 3e38))
    assert not is_finite(torch.tensor([1.0, math.nan]))
    assert is_finite(torch.tensor([65504.0] * 3, dtype=torch.float16))
