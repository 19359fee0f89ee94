"""Formulas translated to C++ against the same in double precision, also where the loop has seams."""

import shutil
from itertools import product

import pytest
import torch

from mainspring.optim import native as module
from mainspring.optim.native import native
from mainspring.optim.source import cpp
from mainspring.optim.update import ADAM, ADAMAX, LAMB_MOMENTS, LAMB_WEIGHTS, Formula, numbers, run

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# Blocks are of 64 elements, and from 65,536 on several threads share the work.
SIZES = (1, 63, 64, 65, 1000, 65_537, 200_003)


@pytest.mark.parametrize(
    ("formula", "gradient", "out"),
    [
        (ADAM, BF16, BF16),
        (ADAM, FP16, FP16),
        (ADAM, FP32, None),
        (ADAM, BF16, FP32),
        (ADAMAX, FP32, None),
        (ADAMAX, BF16, BF16),
        (LAMB_MOMENTS, BF16, None),
        (LAMB_WEIGHTS, BF16, BF16),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_equals_the_formula(formula, gradient, out):
    update = native(formula, gradient, out)
    h = numbers("adam", 3, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, scale=0.5)
    h = h.as_tensor(torch.device("cpu"))
    for n, offset in product(SIZES, (0, 3)):
        torch.manual_seed(n)
        p, m, v = (torch.randn(n + offset)[offset:] for _ in range(3))
        v.abs_()
        g = torch.randn(n).to(gradient)
        around = None if out is None else torch.zeros(n + 2 * offset + 2, dtype=out)
        copy = None if around is None else around[offset + 1 : offset + 1 + n]
        want = [t.double() for t in (p, m, v)]
        sums = update(p, m, v, g, copy, h)
        expected = run(formula, *want, g, None, h.double())
        for mine, theirs in zip((p, m, v), want, strict=True):
            # Adamax divides by no root: where v is small it goes far, and p is a small difference.
            rtol, atol = (1e-5, 2e-6) if formula is ADAMAX else (2e-6, 2e-7)
            torch.testing.assert_close(mine.double(), theirs, rtol=rtol, atol=atol)
        if copy is not None:
            assert torch.equal(copy, p.to(out))
            assert not around[: offset + 1].any() and not around[offset + 1 + n :].any()
        if formula.sums:
            torch.testing.assert_close(sums, expected, rtol=1e-6, atol=0.0)


def test_what_is_not_finite_stays_visible():
    update = native(ADAM, BF16, BF16)
    h = numbers("adamw", 1, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0).as_tensor(
        torch.device("cpu")
    )
    p, m, v = torch.ones(64), torch.zeros(64), torch.zeros(64)
    copy = torch.zeros(64, dtype=BF16)
    g = torch.zeros(64, dtype=BF16)
    g[0], g[1], p[2] = torch.nan, torch.inf, torch.inf
    update(p, m, v, g, copy, h)
    assert not copy[:3].isfinite().any() and (copy[3:] == 1).all()
    assert not p[:3].isfinite().any() and (p[3:] == 1).all()


def test_reads_only_what_the_formula_uses():
    halved = Formula("halved", lambda p, m, v, g, h: (m * h.lerp,), "m")
    source = cpp(halved, FP32, None)
    assert "ms[i + j] = x0;" in source
    assert all(f"number({letter}s" not in source for letter in "pvg")


def test_a_compiler_that_refuses_is_quoted(monkeypatch):
    monkeypatch.setattr(module, "cpp", lambda *_: "#error not today")
    with pytest.raises(OSError, match=r"(?s)refused the source.*not today"):
        native(ADAM, FP32, None)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(OSError, match=r"no g\+\+"):
        native(ADAM, FP32, None)
