"""A tiny model of experts under the flat engine on two ranks beside one process, and under the trainer."""

import numpy as np
import pytest
import torch

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives import CausalLM
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.train.events import StepDone
from mainspring.train.step import Step
from support.spawn import run_ranks
from train.tiny import build_data, fit, recipe

STEPS = 3


def tiny():
    return TransformerConfig(
        d_model=16, n_heads=2, n_layers=3, d_ff=24, vocab_size=30, init_std=0.2,
        experts={"count": 4, "every": 1, "keep": "first", "min_capacity": 1, "top_k": 2, "z_weight": 0.01,
                 "balance_weight": 0.1, "residual": True},
    )  # fmt: skip


def views(step, rank):
    ids = torch.randint(30, (2, 9), generator=torch.Generator().manual_seed(10 * step + rank))
    batch = causal_batch(ids, labels=ids.roll(-1, 1))
    return CausalLM().build(batch, [np.random.default_rng(0)] * 2)


def train(plan, batches):
    """Train on the given micro-batches a step: losses, gradient norms, parameters."""
    model = initialize(Transformer(tiny()), 0)
    parallel.apply(model, plan, reduce="sum")
    optimizer = optim.build(model, OptimConfig(lr=1e-2, eps=1e-4))
    step = Step(model, CausalLM(), 0.0, torch.device("cpu"), model.config.experts)
    told = []
    for number in range(STEPS):
        outcome = step.gradients([views(number, part) for part in batches], lambda: False)
        told.append((outcome.loss, outcome.losses["experts.balance"], outcome.grad_norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    state = parallel.full_state(model, rank0_only=False)
    return told, {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def on_a_rank(rank, world, stages):
    return [train(Plan(data=world, zero=zero), [rank]) for zero in stages]


@pytest.mark.distributed
def test_sharded_training_equals_one_process():
    """With the same micro-batches: what an expert has room for, and its balance, are of a micro-batch."""
    told, parameters = train(Plan(), [0, 1])
    for results in run_ranks(on_a_rank, 2, (0, 2, 3)):
        for others, state in results:
            np.testing.assert_allclose(others, told, rtol=2e-5)
            for name, tensor in parameters.items():
                np.testing.assert_allclose(state[name], tensor, atol=2e-5, rtol=1e-4, err_msg=name)


def test_the_trainer_trains_it_the_same_each_time(tmp_path):
    """Chance in the gate comes from the step's seed; the loss falls; the balance is told with the losses."""
    data = build_data(tmp_path / "data")
    experts = {"count": 4, "noise": "jitter", "capacity_factor": 0.8, "min_capacity": 1}
    shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "max_positions": 32, "experts": experts}
    wanted = recipe(data, model__config=shape, train__steps=25)
    curves = []
    for name in ("one", "two"):
        result, told, _ = fit(wanted, tmp_path / name)
        assert result.status == "finished"
        curves.append([event.loss for event in told if isinstance(event, StepDone)])
    assert curves[0] == curves[1]
    assert curves[0][-1] < 0.85 * curves[0][0]
