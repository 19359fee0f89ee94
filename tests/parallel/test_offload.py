"""The host tier: the contract of every plan, delayed updates beside their definition, what is where."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mainspring import optim, parallel
from mainspring.config import parse
from mainspring.errors import ConfigError, PlanError
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.offload import HostPlacement
from mainspring.parallel.strategy import strategy_of
from mainspring.train import checkpoint
from parallel.battery import Case, check
from support.spawn import run_ranks

SETTINGS = OptimConfig(lr=0.05, eps=1e-4, weight_decay=0.1)


def cases():
    host = {"offload": "host"}
    found = [Case(name, {"zero": z, **host}) for name in ("ours-gpt2", "awkward") for z in (1, 2, 3)]
    found += [Case("cnn", {"zero": z, **host}, "bf16", accumulation=2) for z in (1, 2, 3)]
    found += [Case("ours-gpt2", {"zero": 3, **host, "offload_ratio": 0.5}, "bf16", accumulation=2)]
    found += [Case("ours-gpt2", {"zero": 2, **host}, meta=True)]
    # A delay that the run does not reach: its buffers, without its effect.
    found += [Case("ours-gpt2", {"zero": 2, **host, "offload_delay": 9}, p) for p in ("fp32", "bf16")]
    return found


@pytest.fixture(scope="module")
def outcomes():
    return run_ranks(check, 2, cases(), timeout=200)[0]


@pytest.mark.distributed
@pytest.mark.parametrize("case", [case.id for case in cases()])
def test_as_one_process(outcomes, case):
    errors = outcomes[case]
    assert not isinstance(errors, str), errors
    assert max(errors.values()) <= 1, errors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def data(steps=6):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(8, 6, generator=generator) for _ in range(steps)]


def loss_of(model, x):
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def spread(precision="fp32", **plan):
    torch.manual_seed(0)
    model = parallel.apply(Net(), Plan(zero=2, offload="host", **plan), precision=precision)
    return model, optim.build(model, SETTINGS)


def steps_of(model, optimizer, rows):
    for x in rows:
        loss_of(model, x).backward()
        optimizer.step()
        optimizer.zero_grad()


def delayed_reference(rows, delay, drained=()):
    """theta_{t+1} = Adam(theta_t, g(theta_{t-1})) from step `delay` on, by two models and plain loops.

    `drained` lists steps before which the update under way is waited for and shown.
    """
    torch.manual_seed(0)
    newest, shown = Net(), Net()
    shown.load_state_dict(newest.state_dict())
    optimizer = optim.build(newest, SETTINGS)
    for step, x in enumerate(rows):
        if step in drained or step <= delay:
            shown.load_state_dict(newest.state_dict())
        loss_of(shown, x).backward()
        ready = {name: value.clone() for name, value in newest.state_dict().items()}
        for p, q in zip(newest.parameters(), shown.parameters(), strict=True):
            p.grad, q.grad = q.grad, None
        optimizer.step()
        shown.load_state_dict(ready)  # the next step computes with what was there before this update
    return newest.state_dict()


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("delay", [0, 2])
def test_delayed_updates_equal_their_definition(delay):
    model, optimizer = spread(offload_delay=delay)
    steps_of(model, optimizer, data())
    want = delayed_reference(data(), delay)
    assert_equal(parallel.full_state(model), want)
    undelayed = delayed_reference(data(), 99)
    difference = max(float((want[n] - undelayed[n]).abs().max()) for n in want)
    assert difference > 1e-3  # the oracle tells the two apart


def test_two_optimizers_are_delayed_each_by_itself():
    model, _ = spread(offload_delay=1)
    parts = list(model.parameters())
    pair = [optim.FlatAdam(ps, lr=0.05, eps=1e-4, betas=SETTINGS.betas) for ps in (parts[::2], parts[1::2])]
    one, _ = spread(offload_delay=1)
    single = optim.FlatAdam(one.parameters(), lr=0.05, eps=1e-4, betas=SETTINGS.betas)
    for x in data():
        for net, optimizers in ((model, pair), (one, [single])):
            loss_of(net, x).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert_equal(parallel.full_state(model), parallel.full_state(one))


def test_a_checkpoint_drains_and_the_run_goes_on_as_one_that_resumes(tmp_path):
    rows = data(6)
    model, optimizer = spread(offload_delay=1)
    steps_of(model, optimizer, rows[:4])
    saved_at = checkpoint.save(tmp_path, 4, checkpoint.run_state(model, optimizer), {})
    saved = checkpoint.load_model_state(saved_at)
    assert_equal(saved, delayed_reference(rows[:4], 1))
    steps_of(model, optimizer, rows[4:])
    assert_equal(parallel.full_state(model), delayed_reference(rows, 1, drained=(4,)))
    again, other = spread(offload_delay=1)
    checkpoint.load(saved_at, again, other)
    steps_of(again, other, rows[4:])
    assert_equal(parallel.full_state(again), parallel.full_state(model))


def test_optimizer_state_and_settle_wait_for_the_update():
    model, optimizer = spread(offload_delay=0)
    steps_of(model, optimizer, data(2))
    content = optimizer.state_dict()["state"]
    assert {int(state["step"]) for state in content.values()} == {2}
    with torch.no_grad():
        for piece in model.parameters():
            piece.zero_()
    parallel.settle(model)
    assert float(model(data(1)[0]).detach().abs().max()) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torchs_optimizers_step_the_masters_too(precision):
    results = []
    for ours in (True, False):
        model, optimizer = spread(precision)
        if not ours:
            optimizer = torch.optim.AdamW(
                optim.parameter_groups(model.parameters(), SETTINGS.weight_decay),
                lr=SETTINGS.lr,
                betas=SETTINGS.betas,
                eps=SETTINGS.eps,
            )
        steps_of(model, optimizer, data(3))
        results.append(parallel.full_state(model))
    assert_equal(*results)


def test_bf16_parameters_are_written_with_the_masters():
    model, optimizer = spread("bf16")
    steps_of(model, optimizer, data(2))
    placement = strategy_of(model).placement
    for shard in strategy_of(model).shards:
        out = torch.empty(shard.numel, dtype=torch.bfloat16)
        placement.before_gather(shard, out)
        fresh = placement._held[shard.name].fresh
        assert torch.equal(out, shard.flat.bfloat16()) and torch.equal(out, fresh)


@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.0])
def test_ratio_is_a_least_part_of_all_elements(ratio):
    model, optimizer = spread(offload_ratio=ratio)
    strategy = strategy_of(model)
    there = sum(s.numel for s in strategy.shards if strategy.placement.offloads(s))
    total = sum(s.numel for s in strategy.shards)
    largest = max(s.numel for s in strategy.shards)
    assert ratio * total <= there < ratio * total + largest
    steps_of(model, optimizer, data(3))
    assert_equal(parallel.full_state(model), delayed_reference(data(3), 99))


def test_gradients_come_back_after_a_plain_step_and_are_used_up_by_a_late_one():
    for delay, left in ((None, True), (0, False)):
        model, optimizer = spread(offload_delay=delay)
        loss_of(model, data(1)[0]).backward()
        optimizer.step()
        assert all((p.grad is not None) is left for p in model.parameters())


def test_refusals():
    model, _ = spread(offload_delay=0)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model, data(1)[0]).backward()
    with pytest.raises(PlanError, match="FlatAdam"):
        other.step()
    with pytest.raises(PlanError, match="ratio"):
        HostPlacement(0.0)
    with pytest.raises(PlanError, match="ratio 1"):
        HostPlacement(0.5, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero": 2, "offload_ratio": 0.5}, 'belong to offload = "host"'),
        ({"zero": 2, "offload_delay": 3}, 'belong to offload = "host"'),
        ({"zero": 2, "offload": "host", "offload_ratio": 0.5, "offload_delay": 3}, "offload_ratio = 1"),
        ({"zero": 2, "offload": "host", "offload_ratio": 0.0}, "offload_ratio"),
        ({"offload": "host"}, "zero = 0"),
    ],
)
def test_plans_that_make_no_sense(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(Plan, values)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: copies to and from one are untested"
)
@pytest.mark.parametrize("delay", [None, 1])
def test_on_a_device_as_on_the_host(delay):
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = parallel.apply(Net().to(device), Plan(zero=2, offload="host", offload_delay=delay))
        optimizer = optim.build(model, SETTINGS)
        steps_of(model, optimizer, [x.to(device) for x in data()])
        assert {p.device.type for p in model.parameters()} == {"cpu"}
        results.append(parallel.full_state(model))
    assert_equal(*results)
