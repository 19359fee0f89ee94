"""Whole tensors out of a cut model and into it; never a part for the whole."""

from __future__ import annotations

import pytest
import torch

from mainspring import parallel
from mainspring.errors import PlanError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.span import cut_of
from mainspring.parallel import Plan
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

PLANS = [{"tensor": 4}, {"tensor": 2, "data": 2}, {"tensor": 2, "data": 2, "zero": 3}]
CONFIG = TransformerConfig(d_model=32, n_heads=4, n_layers=2, d_ff=80, vocab_size=97, max_positions=12)


def model(seed):
    return initialize(Transformer(CONFIG), seed=seed)


def exchanged(rank, world):
    return [exchange(rank, plan) for plan in PLANS]


def exchange(rank, plan):
    found = {}
    first, second = (model(seed).state_dict() for seed in (1, 2))
    spread = parallel.apply(model(1), Plan(**plan))
    try:
        spread.state_dict()
    except PlanError as error:
        found["refused"] = str(error)
    for name, want in (("out", first), ("in", second)):
        if name == "in":
            spread.load_state_dict(second)
        state = parallel.full_state(spread, rank0_only=False)
        assert list(state) == list(want)
        found[name] = all(torch.equal(state[key], want[key]) for key in want)
    found["mine only"] = bool(parallel.full_state(spread)) == (rank == 0)
    cuts = {key: cut_of(part) for key, part in parallel.sharded_state(spread).items()}
    found["cut"] = {key for key, cut in cuts.items() if cut is not None}
    return found


def test_whole_tensors_go_out_and_in():
    for rank in run_ranks(exchanged, 4):
        for found in rank:
            assert "full_state" in found.pop("refused")
            assert len(found.pop("cut")) == 1 + 2 * 6
            assert found == {"out": True, "in": True, "mine only": True}
