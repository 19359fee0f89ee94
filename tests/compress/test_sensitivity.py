"""Sensitivity: what is measured is what happens; choices within budgets beside brute force."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.test_smooth import batches, model_of
from mainspring.compress import Measure, Option, choose, choose_greedily, linears, pareto, sensitivities
from mainspring.errors import DataError, UsageError
from mainspring.numerics import format_named
from objectives.pairs import FULL, network
from objectives.test_masked import text

FORMATS = [format_named(n) for n in ("int8", "int4", "int2")]


@torch.no_grad()
def test_each_layer_is_tried_alone_and_put_back() -> None:
    model, texts = model_of(n_layers=3), batches()
    measure = Measure(model, texts)
    before = {n: p.clone() for n, p in model.named_parameters()}
    options = sensitivities(model, measure, FORMATS)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert {o.layer for o in options} == {f"layers.{i}" for i in range(3)} and len(options) == 12
    one = next(o for o in options if (o.layer, o.format) == ("layers.1", "int4"))
    names = [n for n in linears(model) if n.startswith("layers.1.")]
    for name in names:
        weight = model.get_submodule(name).weight
        weight.copy_(format_named("int4").quantize(weight))
    assert one.loss == pytest.approx(measure(model)) and one.loss > 0
    assert one.cost == sum(before[f"{n}.weight"].numel() / 2 + 4 * len(before[f"{n}.weight"]) for n in names)
    losses = {f: sum(o.loss for o in options if o.format == f) for f in ("fp32", "int8", "int4", "int2")}
    assert 0 == losses["fp32"] < losses["int8"] < losses["int4"] < losses["int2"]


@torch.no_grad()
def test_losses_are_those_of_the_models_task() -> None:
    texts = batches(causal=True)
    model = model_of()
    clm = Measure(model, texts, causal=True)
    logits = model(texts[0]).logits.double()
    want = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), texts[0].ids[:, 1:].flatten())
    assert clm.kind == "clm" and clm(model) == pytest.approx(float(want), rel=1e-5)
    masked = network()
    mlm = Measure(masked, [text(2, 12)], vocabulary=FULL)
    assert mlm.kind == "mlm" and mlm(masked) == mlm(masked) > 0
    bare = network(head="none")
    distance = Measure(bare, [text(2, 12)], vocabulary=FULL)
    assert distance.kind == "distance" and distance(bare) == 0.0
    with pytest.raises(DataError, match="no text"):
        Measure(bare, [])


options = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), min_size=1, max_size=4), min_size=1, max_size=5
)


def made(tables: list[list[tuple[int, int]]]) -> list[Option]:
    return [
        Option(f"layers.{i}", f"f{j}", float(cost), float(loss))
        for i, table in enumerate(tables)
        for j, (cost, loss) in enumerate(table)
    ]


@settings(max_examples=150, deadline=None)
@given(tables=options, budget=st.integers(1, 50))
def test_choices_are_those_of_brute_force(tables: list[list[tuple[int, int]]], budget: int) -> None:
    every = [(sum(c for c, _ in chosen), sum(loss for _, loss in chosen)) for chosen in product(*tables)]
    fitting = [loss for cost, loss in every if cost <= budget]
    if not fitting:
        with pytest.raises(UsageError, match="is below"):
            choose(made(tables), budget)
        return
    found = choose(made(tables), budget)
    assert found.loss == min(fitting) and found.cost <= budget
    by_name = {(o.layer, o.format): o for o in made(tables)}
    taken = [by_name[layer, form] for layer, form in found.formats.items()]
    assert (sum(o.cost for o in taken), sum(o.loss for o in taken)) == (found.cost, found.loss)
    greedy = choose_greedily(made(tables), budget)
    assert greedy.cost <= budget and greedy.loss >= found.loss


@settings(max_examples=50, deadline=None)
@given(tables=options)
def test_the_frontier_is_what_nothing_beats(tables: list[list[tuple[int, int]]]) -> None:
    every = {(sum(c for c, _ in chosen), sum(loss for _, loss in chosen)) for chosen in product(*tables)}
    best = {
        (c, loss)
        for c, loss in every
        if not any((a <= c and b <= loss) and (a, b) != (c, loss) for a, b in every)
    }
    assert {(c.cost, c.loss) for c in pareto(made(tables))} == best
