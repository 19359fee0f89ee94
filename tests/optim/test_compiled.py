"""The compiled update: the source's numbers, one compilation for all sizes and settings, and life without."""

import math

import pytest
import torch
from torch import nn

from mainspring.optim import FlatAdam, compiled, flat
from mainspring.optim.compiled import compiled_update
from mainspring.optim.update import ADAM, LAMB_MOMENTS, LAMB_WEIGHTS, numbers, run

KINDS = {
    "adamw": lambda p, **s: torch.optim.AdamW(p, **s),
    "adam": lambda p, **s: torch.optim.Adam(p, **s),
    "radam": lambda p, **s: torch.optim.RAdam(p, decoupled_weight_decay=True, **s),
}


@pytest.mark.parametrize("gradient", [torch.float32, torch.bfloat16, torch.float16])
def test_compiled_steps_equal_torchs(gradient):
    """Every kind and many sizes, offsets and learning rates through one compiled function."""
    assert compiled_update(ADAM, "cpu", gradient, torch.bfloat16) is not None
    torch.manual_seed(0)
    for number, (kind, peer) in enumerate(KINDS.items()):
        settings = {"lr": 0.01 * (1 + number), "eps": 1e-6, "weight_decay": 0.1 * number}
        size = flat.SHORT + 13 * number
        buffer, shadow = torch.randn(size + 64), torch.zeros(size + 64, dtype=torch.bfloat16)
        ours = nn.Parameter(buffer[number : number + size])
        ours.grad_dtype = None
        theirs = nn.Parameter(ours.detach().clone())
        pair = FlatAdam([ours], kind=kind, compiled=True, **settings), peer([theirs], **settings)
        pair[0].copies = {ours: shadow[number : number + size]}
        for step in range(7):
            ours.grad = torch.randn(size).to(gradient)
            theirs.grad = ours.grad.float()
            for optimizer in pair:
                optimizer.param_groups[0]["lr"] = settings["lr"] / (1 + step)
                optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=3e-6, atol=3e-7)
        assert torch.equal(shadow[number : number + size], ours.detach().bfloat16())
        assert not shadow[:number].any() and not shadow[number + size :].any()


def test_says_what_is_lost_without_a_compiler(monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("no g++ here")

    monkeypatch.setattr(compiled, "native", broken)
    fresh = compiled_update.__wrapped__
    monkeypatch.setattr(flat, "compiled_update", fresh)
    weight = nn.Parameter(torch.ones(flat.SHORT))
    weight.grad = torch.ones(flat.SHORT)
    with pytest.warns(RuntimeWarning, match=r"no g\+\+ here.*slower"):
        FlatAdam([weight], lr=0.1, weight_decay=0.0, compiled=True).step()
    torch.testing.assert_close(weight.detach(), torch.full((flat.SHORT,), 0.9))


def test_numbers_of_radam_before_and_after_rectification():
    early = numbers("radam", 1, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    assert (early.root, early.eps) == (0.0, 1.0)
    assert math.isclose(early.rate, 0.1 / (1 - 0.9))
    late = numbers("radam", 100_000, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    assert late.root == 1.0 and math.isclose(late.rate, 0.1, rel_tol=1e-3)  # the rectification tends to 1


def test_lambs_passes_by_their_definition():
    torch.manual_seed(0)
    p, g = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    m, v, start = torch.zeros_like(p), torch.zeros_like(p), p.clone()
    now = numbers("adam", 1, lr=1.0, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.2)
    sums = run(LAMB_MOMENTS, p, m, v, g, None, now.as_tensor(p.device).double())
    want = g / (g.abs() + 1e-3) + 0.2 * p  # after one step the corrected moments are g and g^2
    assert torch.equal(p, start)
    torch.testing.assert_close(m, 0.1 * g, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(sums, torch.stack([(p**2).sum(), (want**2).sum()]), rtol=1e-4, atol=0.0)
    run(LAMB_WEIGHTS, p, m, v, g, None, now._replace(lerp=0.25).as_tensor(p.device).double())
    torch.testing.assert_close(p, start - 0.25 * want, rtol=1e-5, atol=1e-6)


def test_source_is_adamw_in_double_precision():
    p, g = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 0.25]).double()
    m, v = torch.tensor([0.1, 0.2]).double(), torch.tensor([0.3, 0.4]).double()
    now = numbers("adamw", 3, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5)
    first, second = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    want = p * 0.95 - 0.1 * (first / (1 - 0.9**3)) / ((second / (1 - 0.99**3)).sqrt() + 1e-8)
    run(ADAM, p, m, v, g, None, now.as_tensor(p.device).double())
    torch.testing.assert_close(p, want, rtol=1e-6, atol=1e-7)
