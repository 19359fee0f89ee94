"""A warm-up that ends once the variance has settled: the rule written out, and an interruption."""

import pytest
import torch
from torch import nn

from mainspring import optim, parallel
from mainspring.config import parse
from mainspring.errors import ConfigError
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.train import checkpoint

BETAS, APART = (0.8, 0.9), 10
"""1 / (1 - 0.9) steps lie between two looks at the variance."""
SHAPES = {
    "falls": lambda step: 1.0 + 4.0 * 0.93**step,
    "rises": lambda step: min(1.0 + 0.2 * step, 9.0),
    "rests": lambda step: 1.0,
    "never rests": lambda step: 1.05**step,
}
"""How long a gradient is at a step, counted from 0."""


def gradients(step, shape):
    draw = torch.Generator().manual_seed(step)
    return [SHAPES[shape](step) * torch.randn(size, generator=draw) for size in ((50, 40), (50,))]


def expected(shape, after, steps):
    """The first step at which the corrected sum of the variance is within 4 % of what it was before."""
    v = [torch.zeros(50, 40, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)]
    before = 0.0
    for step in range(1, steps + 1):
        for one, g in zip(v, gradients(step - 1, shape), strict=True):
            one.mul_(BETAS[1]).add_(g.double() ** 2, alpha=1 - BETAS[1])
        if step % APART == 0:
            now = float(sum(one.sum() for one in v)) / (1 - BETAS[1] ** step)
            if step >= after and min(now, before) >= 0.96 * max(now, before):
                return step
            before = now
    return None


def build(kind, after):
    torch.manual_seed(0)
    model = parallel.apply(nn.Linear(40, 50), Plan(communication="compressed"))
    schedule = {"kind": "constant", "warmup_steps": after}
    config = OptimConfig(kind=kind, betas=BETAS, schedule=schedule, onebit={"freeze_step": "settled"})
    return model, optim.build(model, config, replicas=parallel.replicas(model))


def go(model, optimizer, shape, first, last):
    """The step after which the variance was frozen, if it was."""
    for step in range(first, last):
        for parameter, g in zip(model.parameters(), gradients(step, shape), strict=True):
            parameter.grad = g
        optimizer.step()
        if optimizer.frozen:
            return step + 1
    return None


@pytest.mark.parametrize("kind", ["onebit_adam", "onebit_lamb"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rule(kind, shape):
    for after in (0, 37):
        want = expected(shape, after, 120)
        assert (want is None) == (shape == "never rests") and (want is None or want >= max(after, 2 * APART))
        assert go(*build(kind, after), shape, 0, 120) == want


def test_an_interruption_changes_nothing(tmp_path):
    want = expected("falls", 0, 120)
    model, optimizer = build("onebit_adam", 0)
    assert go(model, optimizer, "falls", 0, want - 5) is None
    saved = checkpoint.save(tmp_path, want - 5, checkpoint.run_state(model, optimizer), {})
    again, its = build("onebit_adam", 0)
    checkpoint.load(saved, again, its)
    assert go(again, its, "falls", want - 5, 120) == want


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "zero_one_adam", "onebit": {"freeze_step": "settled"}}, "is no number; give one"),
        (
            {"kind": "onebit_adam", "onebit": {"freeze_step": 9}, "schedule": {"warmup_steps": 10}},
            r"freeze_step = 9 lies within the warm-up of the learning rate \(schedule.warmup_steps = 10\)",
        ),
        ({"kind": "onebit_adam", "onebit": {"freeze_step": 0}}, "freeze_step"),
        ({"kind": "onebit_adam", "onebit": {"freeze_step": "soon"}}, "freeze_step"),
    ],
)
def test_wrong_settings(values, said):
    with pytest.raises(ConfigError, match=said):
        parse(OptimConfig, values)
