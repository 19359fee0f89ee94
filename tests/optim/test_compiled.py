"""The compiled update: the source's numbers, one compilation for all sizes and settings, and life without."""

import math

import pytest
import torch
from torch import nn

from mainspring.optim import FlatAdam, flat
from mainspring.optim.compiled import alone, compiled_update
from mainspring.optim.update import lamb_direction, numbers, update

KINDS = {
    "adamw": lambda p, **s: torch.optim.AdamW(p, **s),
    "adam": lambda p, **s: torch.optim.Adam(p, **s),
    "radam": lambda p, **s: torch.optim.RAdam(p, decoupled_weight_decay=True, **s),
}


def test_compiled_steps_equal_torchs_and_compile_once():
    """Every kind and many sizes, offsets and learning rates through one compiled function."""
    assert compiled_update("cpu", torch.bfloat16, torch.bfloat16) is not None
    torch.manual_seed(0)
    with torch.compiler.set_stance("fail_on_recompile"):
        for number, (kind, peer) in enumerate(KINDS.items()):
            settings = {"lr": 0.01 * (1 + number), "eps": 1e-6, "weight_decay": 0.1 * number}
            size = flat.SHORT + 13 * number
            buffer, shadow = torch.randn(size + 64), torch.zeros(size + 64, dtype=torch.bfloat16)
            ours = nn.Parameter(buffer[number : number + size])
            ours.grad_dtype = None
            theirs = nn.Parameter(ours.detach().clone())
            pair = FlatAdam([ours], kind=kind, compiled=True, **settings), peer([theirs], **settings)
            pair[0].copies = {ours: shadow[:size]}
            for step in range(7):
                ours.grad = torch.randn(size).bfloat16()
                theirs.grad = ours.grad.float()
                for optimizer in pair:
                    optimizer.param_groups[0]["lr"] = settings["lr"] / (1 + step)
                    optimizer.step()
            torch.testing.assert_close(ours, theirs, rtol=3e-6, atol=3e-7)
            assert torch.equal(shadow[:size], ours.detach().bfloat16())


def test_says_what_is_lost_without_a_compiler(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no g++ here")

    monkeypatch.setattr(torch, "compile", broken)
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


def test_a_flat_view_shares_memory_and_is_nobodys_view():
    base = torch.arange(12.0).view(3, 4)
    seen = alone(base.view(-1)[4:])
    assert seen._base is None and seen.storage_offset() == 0 and seen.tolist() == list(range(4, 12))
    seen[0] = -1.0
    assert base[1, 0] == -1


def test_lambs_first_pass_by_its_definition():
    torch.manual_seed(0)
    p, g = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    m, v, u = (torch.zeros(50, dtype=torch.float64) for _ in range(3))
    now = numbers("adam", 1, lr=1.0, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.2)
    weight, direction = lamb_direction(p, m, v, g, u, now.as_tensor(p.device).double())
    want = g / (g.abs() + 1e-3) + 0.2 * p  # after one step the corrected moments are g and g^2
    torch.testing.assert_close(u, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(m, 0.1 * g, rtol=1e-6, atol=1e-8)
    assert math.isclose(float(weight), float((p**2).sum()), rel_tol=1e-6)
    assert math.isclose(float(direction), float((want**2).sum()), rel_tol=1e-4)


def test_source_is_adamw_in_double_precision():
    p, g = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 0.25]).double()
    m, v = torch.tensor([0.1, 0.2]).double(), torch.tensor([0.3, 0.4]).double()
    now = numbers("adamw", 3, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5)
    first, second = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    want = p * 0.95 - 0.1 * (first / (1 - 0.9**3)) / ((second / (1 - 0.99**3)).sqrt() + 1e-8)
    update(p, m, v, g, None, now.as_tensor(p.device).double())
    torch.testing.assert_close(p, want, rtol=1e-6, atol=1e-7)
