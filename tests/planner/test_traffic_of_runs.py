"""What ranks send in a step is what the planner says, for axes alone and together."""

from __future__ import annotations

import pytest
import torch

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.models.gpt2.config import gpt2
from mainspring.nn import Transformer, initialize
from mainspring.objectives.base import labelled_loss
from mainspring.optim import OptimConfig
from mainspring.parallel.sequence import split_tokens
from mainspring.planner import Candidate, cost, device, inventory_of, work_of
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

H, L, S, V, ROWS = 64, 4, 32, 96, 2
EXPERTS = {"count": 4, "top_k": 2, "capacity_factor": None}
CONFIG = gpt2(H, L, 4, vocab_size=V, max_positions=S, experts=EXPERTS)
SMALL = ("start", "flags", "norm", "token data", "expert counts", "balance", "first tokens")
"""What is not of the size of activations or parameters, or of no step."""

PLANS = [
    {"data": 2, "tensor": 2},
    {"data": 2, "tensor": 2, "zero": 3, "kept": "input"},
    {"data": 2, "expert": 2, "tensor": 2},
    {"data": 2, "expert": 2, "tensor": 2, "tensor_sequence": True, "zero": 1},
    {"data": 2, "expert": 2, "sequence": 2, "zero": 2},
    {"data": 2, "sequence": 2, "attention": "ring"},
    {"data": 4, "expert": 2, "zero": 1, "kept": "input"},
    {"data": 4, "communication": "compressed"},
    {"data": 2, "tensor": 2, "zero": 1, "communication": "compressed"},
    {"data": 4, "communication": "adasum"},
    {"data": 4, "gradient_dtype": "bf16"},
]


def sent(rank, world):
    """Bytes that this rank sends in a step of two micro-batches, under each plan; of rows to experts those
    that it has, whoever gets them: routing is no matter of the plan."""
    found = []
    for fields in PLANS:
        plan = Candidate(**fields).plan()
        model = parallel.apply(initialize(Transformer(CONFIG), 0), plan, reduce="sum")
        ids = torch.randint(V, (ROWS, S), generator=torch.Generator().manual_seed(rank // plan.tensor))
        batch = causal_batch(ids, labels=ids)
        if plan.sequence > 1:
            batch = split_tokens(batch, parallel.axes_of(model).index("sequence"), plan.sequence)
        step = stepping(model, plan, batch)
        with parallel.traffic(model).measure() as seen:
            parallel.accumulate(model, [batch, batch], labelled_loss)
            step()
        total = 0.0
        for (name, _), moved in seen.records.items():
            if name == "experts":
                total += moved.payload * (plan.expert - 1) / plan.expert
            elif name not in SMALL:
                total += moved.wire
        found.append(total)
    return found


def stepping(model, plan, batch):
    """What ends a step: nothing, or an optimizer that speaks to the others, past its warm-up."""
    if plan.communication == "exact":
        return lambda: None
    kind = "onebit_adam" if plan.communication == "compressed" else "adamw"
    config = OptimConfig(kind=kind, onebit={"freeze_step": 1})
    optimizer = optim.build(model, config, replicas=parallel.replicas(model))
    parallel.accumulate(model, [batch, batch], labelled_loss)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer.step


@pytest.fixture(scope="module")
def counted():
    """Of all ranks the mean: some have more experts that are asked for."""
    return [sum(of_rank) / 4 for of_rank in zip(*run_ranks(sent, 4), strict=True)]


@pytest.mark.parametrize("number", range(len(PLANS)), ids=[str(plan) for plan in PLANS])
def test_what_is_sent_was_predicted(counted, number):
    candidate = Candidate(**PLANS[number], micro_rows=ROWS, accumulation=2)
    said = cost(inventory_of(CONFIG), work_of(CONFIG, S), candidate, device("v100-32g"), "fp32")
    assert counted[number] == pytest.approx(sum(said.traffic.values()), rel=0.03)
