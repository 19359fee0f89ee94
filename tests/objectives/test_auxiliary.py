"""Auxiliary losses beside an objective's, over micro-batches of any cut."""

import numpy as np
import torch

from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives import CausalLM, with_auxiliary
from mainspring.train.step import Step


def net(**experts):
    config = TransformerConfig(
        d_model=16, n_heads=2, n_layers=2, d_ff=24, vocab_size=30, init_std=0.3,
        experts={"count": 4, "capacity_factor": None, "z_weight": 0.001, **experts},
    )  # fmt: skip
    return initialize(Transformer(config), 0)


def views(rows, seed=0):
    ids = torch.randint(30, (rows, 7), generator=torch.Generator().manual_seed(seed))
    batch = causal_batch(ids, labels=ids.roll(-1, 1))
    return CausalLM().build(batch, [np.random.default_rng(0)] * rows)


def test_losses_and_counts():
    model = net()
    objective = with_auxiliary(CausalLM(), model.config.experts)
    given = views(3)
    assert objective.counts(given) == {"clm": 21, "experts.balance": 3, "experts.z": 3}
    losses = objective.loss(model, given)
    auxiliary = model(given["clm"]).auxiliary
    for place, (name, weight) in enumerate((("experts.balance", 0.01), ("experts.z", 0.001))):
        torch.testing.assert_close(losses[name].total, 3 * auxiliary[place])
        assert (losses[name].weight, losses[name].count) == (weight, 3)
    plain = CausalLM().loss(model, given)["clm"]
    assert torch.equal(losses["clm"].total, plain.total)
    assert not model._forward_hooks


def test_nothing_is_added_without_need():
    objective = CausalLM()
    assert with_auxiliary(objective, None) is objective
    off = net(balance_weight=0.0, z_weight=0.0).config.experts
    assert with_auxiliary(objective, off) is objective
    only = with_auxiliary(objective, net(z_weight=0.0).config.experts)
    assert set(only.loss(net(), views(2))) == {"clm", "experts.balance"}


def test_a_step_weighs_micro_batches_by_their_rows():
    model = net()
    parts = [views(3, 0), views(1, 1)]
    step = Step(model, CausalLM(), 0.0, torch.device("cpu"), model.config.experts)
    outcome = step.gradients(parts, lambda: False)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    outs = [model(part["clm"]) for part in parts]
    labels = [part["clm"].labels for part in parts]
    entropy = sum(
        torch.nn.functional.cross_entropy(o.logits.flatten(0, 1), y.flatten(), reduction="sum")
        for o, y in zip(outs, labels, strict=True)
    ) / 28  # fmt: skip
    means = (3 * outs[0].auxiliary + outs[1].auxiliary) / 4
    total = entropy + 0.01 * means[0] + 0.001 * means[1]
    total.backward()
    assert abs(outcome.loss - total.item()) < 1e-5
    assert abs(outcome.losses["experts.balance"] - means[0].item()) < 1e-6
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-5)
