"""XlCo: equal to a brute-force InfoNCE; order of the queue and arithmetic of the average exact; mixup."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import IGNORE
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.errors import ConfigError
from mainspring.nn import Transformer, initialize
from mainspring.objectives import (
    ContrastConfig,
    CrossLingualContrast,
    Evolves,
    MomentumContrast,
    Objective,
    OwnsModules,
    build,
)
from mainspring.objectives.contrast import summed_info_nce
from objectives.pairs import CLS, FULL, SEP, network, pairs, rows_from
from objectives.test_masked import generators


def xlco(**changes: object) -> CrossLingualContrast:
    values = {"kind": "xlco", "layer": 2, "queue": 7, "momentum": 0.75, **changes}
    return CrossLingualContrast(parse(ContrastConfig, values), FULL)


def model_of(objective: CrossLingualContrast) -> MomentumContrast:
    model = initialize(objective.assemble(Transformer(network().config)), 0).eval()
    objective.start(model)
    return model


def test_the_loss_is_info_nce_written_out() -> None:
    objective, batch = xlco(temperature=0.5), pairs(5)
    model = model_of(objective)
    model.store(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        for parameter in model.slow_network.parameters():
            parameter.mul_(1.5)
    views = objective.build(batch, generators(5))
    loss = objective.loss(model, views)["xlco"]
    expected = 0.0
    with torch.no_grad():
        slow = model.slow_network(views["key"], states=True).states[2][:, 0] @ model.slow_projection.weight.T
        fast = model.network(views["query"], states=True).states[2][:, 0] @ model.projection.weight.T
        for i in range(5):
            terms = [float(fast[i].double() @ slow[i].double()) / 0.5]
            terms += [float(fast[i].double() @ model.queue[j].double()) / 0.5 for j in range(4)]
            expected -= terms[0] - math.log(sum(math.exp(t) for t in terms))
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.count == 5 == objective.counts(views)["xlco"]


def test_only_the_query_side_learns_and_no_negative_is_a_positive() -> None:
    objective = xlco(tlm_weight=0.0)
    model = model_of(objective)
    views = objective.build(pairs(3), generators(3))
    first = objective.loss(model, views)["xlco"]
    assert first.total.item() == 0.0, "with an empty queue there is nothing to tell apart"
    objective.after_step(model, lambda part: part, True)
    objective.loss(model, views)["xlco"].total.backward()
    assert model.projection.weight.grad.any()
    assert all(p.grad is None for n, p in model.named_parameters() if n.startswith("slow_"))
    used = {n for n, p in model.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(n.startswith("layers.1.") for n in used) and not any(n.startswith("layers.2.") for n in used)


def test_the_queue_is_a_ring() -> None:
    model = model_of(xlco())
    rows = torch.arange(1, 40, dtype=torch.float32)[:, None].expand(-1, 16)
    kept: list[float] = []
    at = 0
    for size in (3, 3, 2, 7, 9, 1):
        model.store(rows[at : at + size])
        kept = (kept + rows[at : at + size, 0].tolist())[-7:]
        at += size
        assert sorted(model.negatives()[:, 0].tolist()) == kept, "the newest seven, oldest out first"
        assert model.stored.item() == at
    assert [model.queue[n % 7, 0].item() for n in range(at - 7, at)] == kept


def test_the_average_is_exact() -> None:
    model = model_of(xlco())
    before = [p.clone() for p in model.slow_network.parameters()]
    for one, other in zip(model.slow_network.parameters(), model.network.parameters(), strict=True):
        assert torch.equal(one, other), "the copy begins as the network"
    with torch.no_grad():
        for parameter in (*model.network.parameters(), *model.projection.parameters()):
            parameter.add_(1.0)
    model.follow(0.75)
    for was, now in zip(before, model.slow_network.parameters(), strict=True):
        torch.testing.assert_close(now, 0.75 * was + 0.25 * (was + 1.0), rtol=0, atol=1e-6)


def test_a_skipped_step_leaves_queue_and_copy_alone() -> None:
    objective = xlco()
    model = model_of(objective)
    before = copy.deepcopy(model.state_dict())
    objective.loss(model, objective.build(pairs(3), generators(3)))
    objective.after_step(model, lambda part: part, False)
    assert not model.pending
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        objective.loss(model, objective.build(pairs(3), generators(3)))
    assert not model.pending, "scoring stores nothing"


def test_several_batches_of_a_step_store_what_one_does() -> None:
    objective, batch = xlco(), pairs(6)
    one, several = model_of(objective), model_of(objective)
    for step in range(2):
        whole = objective.loss(one, objective.build(batch, generators(6, step)))
        sums = {"xlco": 0.0, "tlm": 0.0}
        for start, stop in [(0, 1), (1, 4), (4, 6)]:
            views = objective.build(rows_from(batch, start, stop), generators(6, step)[start:stop])
            for name, loss in objective.loss(several, views).items():
                sums[name] += loss.total.item()
        assert sums == pytest.approx({n: loss.total.item() for n, loss in whole.items()}, rel=1e-4)
        for model in (one, several):
            objective.after_step(model, lambda part: part, True)
        torch.testing.assert_close(one.queue, several.queue)


def test_rows_without_their_label_count_nothing_and_store_nothing() -> None:
    objective = xlco(tlm_weight=0.0)
    model = model_of(objective)
    model.store(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)))
    views = objective.build(pairs(5), generators(5))
    kept = torch.tensor([True, False, False, True, False])
    labels = torch.where(kept[:, None], views["query"].labels, IGNORE)
    some = objective.loss(model, views | {"query": views["query"]._replace(labels=labels)})["xlco"]
    assert some.count == 2 and [len(keys) for keys in model.pending] == [2]
    alone = {name: rows_from(view, 0, 1) for name, view in views.items()}
    last = {name: rows_from(view, 3, 4) for name, view in views.items()}
    each = sum(objective.loss(model, one)["xlco"].total.item() for one in (alone, last))
    assert some.total.item() == pytest.approx(each, rel=1e-5)


def test_mixup_joins_both_pairs_on_each_side() -> None:
    """Three bits: order of the sources, order of the targets, which side asks."""
    objective = xlco(mask_share=0.0, random_share=0.0)
    packed = pair_batch([TextPair([11], [21], 1, 2), TextPair([12], [22], 1, 2)], per_row=2)
    batch = type(packed)(*(t if t is None else t.repeat(400, 1) for t in packed))
    views = objective.build(batch, generators(400))
    seen = {}
    for query, key in zip(views["query"].ids.tolist(), views["key"].ids.tolist(), strict=True):
        for side in (query, key):
            assert side[0] == CLS and side[2] == side[4] == SEP
        assert {query[1], query[3]} in ({11, 12}, {21, 22}) and (query[1] > 20) != (key[1] > 20)
        outcome = (query[1], query[3], key[1])
        seen[outcome] = seen.get(outcome, 0) + 1
    assert len(seen) == 8 and min(seen.values()) > 25
    assert (views["query"].labels[:, 0] == 0).all() and (views["query"].labels[:, 1:] == IGNORE).all()
    assert (views["key"].labels == IGNORE).all() and views["query"].doc is None


def test_info_nce_without_negatives_is_zero_and_is_not_normalised() -> None:
    q, k, n = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert summed_info_nce(q, k, n[:0], 0.25).item() == 0.0
    assert summed_info_nce(q, k, n, 0.25).item() == pytest.approx(math.log1p(math.exp(-12.0)), abs=1e-6)


def test_the_network_is_taken_out_and_protocols_hold() -> None:
    objective = build(ContrastConfig(layer=2, queue=3), FULL)
    assert isinstance(objective, Objective) and isinstance(objective, Evolves)
    assert isinstance(objective, OwnsModules)
    model = objective.assemble(network())
    network().load_state_dict(objective.network_state(dict(model.state_dict())))
    with pytest.raises(ConfigError, match="the model has 3 layers"):
        xlco(layer=4).assemble(network())
    assert np.isclose(objective.config.temperature, 0.25)
