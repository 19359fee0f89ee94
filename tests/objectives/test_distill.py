"""Distillation: MiniLM's and MiniLMv2's losses written out with loops; what is learnt, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mainspring.config import parse
from mainspring.data.batch import IGNORE, TokenBatch, bidirectional_batch
from mainspring.errors import ConfigError, UsageError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.attention import projections
from mainspring.objectives import (
    Distill,
    DistillConfig,
    Evolves,
    Objective,
    OwnsModules,
    TaughtNetwork,
    build,
    network_state,
)
from objectives.pairs import CLS, FULL, network, rows_from
from objectives.test_masked import generators, text

V1 = {"relations": {"qk": 1.0, "vv": 1.0}}


class Known:
    """A teacher in memory."""

    def __init__(self, model: Transformer) -> None:
        self.config, self._state = model.config, model.state_dict()

    def read(self) -> dict[str, Tensor]:
        return self._state


def bigger(**changes: object) -> Transformer:
    """A teacher whose attention is far from even."""
    model = network(**{"d_model": 24, "n_heads": 2, "n_layers": 4, "d_ff": 40, **changes})
    with torch.no_grad():
        for block in model.layers:
            block.attention.qkv.weight.mul_(40)
    return model


def distill(teacher: Transformer | None = None, **changes: object) -> Distill:
    config = parse(DistillConfig, {"kind": "distill", "teacher": "there", **changes})
    return Distill(config, FULL, Known(teacher or bigger()))


def model_of(objective: Distill, **student: object) -> TaughtNetwork:
    model = initialize(objective.assemble(Transformer(network(**student).config)), 1)
    objective.start(model)
    with torch.no_grad():
        for block in model.network.layers:
            block.attention.qkv.weight.mul_(40)
    return model


def packed(rows: int = 3) -> TokenBatch:
    """Rows of two texts, the last one half empty."""
    batch = text(rows, 14)
    doc = torch.zeros_like(batch.ids)
    doc[:, 6:] = 1
    return bidirectional_batch(batch.ids, doc=doc, valid=batch.valid)


@torch.no_grad()
def written_out(model: TaughtNetwork, view: TokenBatch, a: str, b: str, heads: int, layer: int) -> float:
    """1/R of the sum of KL over heads and tokens, by the papers' equations, token by token in fp64."""

    def relation(network: Transformer, layer: int) -> Callable[[int, int, int, list[int]], list[float]]:
        states = network(view, states=True).states
        fused = network.layers[layer].attention.project(states[layer])
        parts = dict(zip("qkv", projections(fused, network.config.head_width), strict=True))
        one, other = (parts[n].flatten(2).double() for n in (a, b))
        width = one.shape[-1] // heads

        def row(r: int, i: int, head: int, seen: list[int]) -> list[float]:
            cut = slice(head * width, (head + 1) * width)
            scores = [float(one[r, i, cut] @ other[r, j, cut]) / math.sqrt(width) for j in seen]
            top = max(scores)
            total = sum(math.exp(s - top) for s in scores)
            return [math.exp(s - top) / total for s in scores]

        return row

    teacher, student = relation(model.teacher, layer), relation(model.network, len(model.network.layers) - 1)
    valid = torch.ones_like(view.ids).bool() if view.valid is None else view.valid
    doc = torch.zeros_like(view.ids) if view.doc is None else view.doc
    total = 0.0
    for r in range(view.ids.shape[0]):
        for i in range(view.ids.shape[1]):
            if not valid[r, i]:
                continue
            seen = [
                j
                for j in range(view.ids.shape[1])
                if valid[r, j] and doc[r, j] == doc[r, i] and view.rank[r, j] <= view.rank[r, i]
            ]
            for head in range(heads):
                p, q = teacher(r, i, head, seen), student(r, i, head, seen)
                total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)
    return total / heads


@pytest.mark.parametrize(
    ("changes", "names", "heads", "layer"),
    [
        (V1, ["qk", "vv"], 2, 3),
        ({"relation_heads": 8, "teacher_layer": 3}, ["qq", "kk", "vv"], 8, 2),
        ({"relation_heads": 1, "relations": {"qv": 0.5}, "causal": True}, ["qv"], 1, 3),
    ],
)
def test_losses_are_the_papers_equations(
    changes: dict[str, object], names: list[str], heads: int, layer: int
) -> None:
    objective = distill(**changes)
    model = model_of(objective)
    views = objective.build(packed(), generators(3))
    losses = objective.loss(model, views)
    assert list(losses) == names == list(objective.counts(views))
    for name in names:
        want = written_out(model, views["distill"], *name, heads, layer)
        assert losses[name].total.item() == pytest.approx(want, rel=2e-5)
        assert want > 0.1, "the two differ enough to tell"
        assert losses[name].count == int((views["distill"].labels != IGNORE).sum())
        assert losses[name].weight == objective.config.relations[name]


def test_texts_begin_as_the_tokenizer_begins_them() -> None:
    view = distill().build(packed(), generators(3))["distill"]
    plain = distill(begin=False).build(packed(), generators(3))["distill"]
    assert view.ids[:, [0, 6]].eq(CLS).all() and view.pos[0].tolist() == [*range(6), *range(8)]
    assert view.ids[:, 1].ne(CLS).all(), "the first text has it already"
    assert view.ids[0, 7:].tolist() == plain.ids[0, 6:-1].tolist(), "what has no room is cut off"
    assert torch.equal(plain.ids, packed().ids.where(packed().valid, 0))


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    teacher = bigger()
    objective = distill(teacher, relation_heads=4, hidden_weight=1.0, logits_weight=1.0, text_weight=1.0)
    model = initialize(objective.assemble(Transformer(teacher.config)), 1)
    objective.start(model)
    model.network.load_state_dict(teacher.state_dict())
    losses = objective.loss(model, objective.build(packed(), generators(3)))
    assert {n: abs(one.total.item()) for n, one in losses.items()} == pytest.approx(
        dict.fromkeys(("qq", "kk", "vv", "hidden", "logits", "text"), 0.0), abs=2e-4
    )


def test_what_both_say_is_compared_token_by_token_and_text_by_text() -> None:
    objective = distill(
        bigger(d_model=16),
        relations={},
        hidden_weight=2.0,
        logits_weight=0.5,
        text_weight=3.0,
        temperature=2.0,
    )
    model = model_of(objective)
    view = (views := objective.build(packed(), generators(3)))["distill"]
    losses = objective.loss(model, views)
    with torch.no_grad():
        ours, theirs = model.network(view), model.teacher(view)
    hidden, logits, texts = 0.0, 0.0, []
    for r in range(3):
        for i in view.valid[r].nonzero().flatten().tolist():
            hidden += float((ours.hidden[r, i] - theirs.hidden[r, i]).double().pow(2).mean())
            p, q = (torch.softmax(o.logits[r, i].double() / 2.0, 0) for o in (theirs, ours))
            logits += 4.0 * float((p * (p / q).log()).sum())
        for doc in (0, 1):
            where = (view.doc[r] == doc) & view.valid[r]
            if where.any():
                one, other = (o.hidden[r, where].double().mean(0) for o in (ours, theirs))
                texts.append(1 - float(one @ other / one.norm() / other.norm()))
    assert losses["hidden"].total.item() == pytest.approx(hidden, rel=1e-4)
    assert losses["logits"].total.item() == pytest.approx(logits, rel=1e-4)
    assert losses["text"].total.item() == pytest.approx(sum(texts), rel=1e-4)
    assert losses["text"].count == len(texts) == objective.counts(views)["text"]
    assert {n: one.weight for n, one in losses.items()} == {"hidden": 2.0, "logits": 0.5, "text": 3.0}


def test_only_the_student_learns_up_to_its_last_projection() -> None:
    objective = distill(relation_heads=4)
    model = model_of(objective).train()
    assert not model.teacher.training and model.network.training
    before = {n: p.clone() for n, p in model.teacher.named_parameters()}
    losses = objective.loss(model, objective.build(packed(), generators(3)))
    torch.stack([one.total for one in losses.values()]).sum().backward()
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in model.teacher.named_parameters())
    learnt = {n for n, p in model.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"layers.2.attention.qkv.weight", "layers.1.feed_forward.down.weight"} <= learnt
    assert not any(n.startswith(("layers.2.feed_forward", "layers.2.attention.out", "head")) for n in learnt)
    assert network_state(objective, model.state_dict()).keys() == model.network.state_dict().keys()


def test_a_student_comes_nearer() -> None:
    torch.manual_seed(0)
    objective = distill(relation_heads=4)
    model = model_of(objective)
    views = objective.build(packed(8), generators(8))
    optimizer = torch.optim.Adam(model.network.parameters(), 3e-3)
    told = []
    for _ in range(40):
        losses = objective.loss(model, views)
        total = torch.stack([one.weight * one.total / one.count for one in losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        told.append(total.item())
    assert told[-1] < 0.4 * told[0]


def test_one_large_batch_equals_several_small_ones() -> None:
    objective = distill(bigger(d_model=16), relation_heads=4, text_weight=1.0)
    model = model_of(objective)
    batch, rngs = packed(6), generators(6)
    whole = objective.loss(model, objective.build(batch, rngs))
    parts = [
        objective.loss(model, objective.build(rows_from(batch, i, i + 2), rngs[i : i + 2])) for i in (0, 2, 4)
    ]
    for name, one in whole.items():
        assert one.total.item() == pytest.approx(sum(p[name].total.item() for p in parts), rel=1e-5)
        assert one.count == sum(p[name].count for p in parts)


def test_labels_tell_what_counts() -> None:
    objective = distill(bigger(d_model=16), text_weight=1.0)
    model = model_of(objective)
    view = objective.build(packed(), generators(3))["distill"]
    views = {"distill": view._replace(labels=torch.full_like(view.labels, IGNORE))}
    assert set(objective.counts(views).values()) == {0}
    assert all(one.total.item() == 0.0 for one in objective.loss(model, views).values())


def test_it_is_an_objective_with_modules_of_its_own() -> None:
    objective = build(parse(DistillConfig, {"teacher": "there"}), FULL)
    assert isinstance(objective, Objective) and isinstance(objective, OwnsModules)
    assert isinstance(objective, Evolves)
    with pytest.raises(UsageError, match="objective_of, which reads objective.teacher"):
        objective.assemble(network())


@pytest.mark.parametrize(
    ("changes", "student", "said"),
    [
        ({"teacher_layer": 5}, {}, "the teacher has 4 layers; nearest legal value: 4"),
        (
            {"relation_heads": 5},
            {},
            "student's 2 heads of 8 cannot be cut into so many; nearest legal value: 4",
        ),
        ({"relation_heads": 16}, {}, "teacher's 2 heads of 12 cannot be cut"),
        ({"hidden_weight": 1.0}, {}, "the student has 16 and the teacher 24"),
        ({"logits_weight": 1.0}, {"head": "none"}, "the student's head is 'none'"),
        ({"logits_weight": 1.0}, {"vocab_size": 20}, "the student has 20 tokens"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(
    changes: dict[str, object], student: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        distill(**changes).assemble(Transformer(network(**student).config))
    both = TransformerConfig(d_model=16, n_heads=2, encoder_layers=1, decoder_layers=1, d_ff=8, vocab_size=40)
    with pytest.raises(ConfigError, match="single stacks"):
        distill().assemble(Transformer(both))


def test_settings_that_teach_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="every weight is 0"):
        parse(DistillConfig, {"teacher": "there", "relations": {}})
    with pytest.raises(ConfigError, match="weights are at least 0"):
        parse(DistillConfig, {"teacher": "there", "relations": {"qq": -1.0}})
    with pytest.raises(ConfigError, match="relations.qx"):
        parse(DistillConfig, {"teacher": "there", "relations": {"qx": 1.0}})


def test_exposed_projections_are_what_the_layer_computes() -> None:
    model = bigger()
    view = bidirectional_batch(text(2, 9).ids)
    plain = model(view, states=True)
    shown = model(view, expose=(2, 0))
    torch.testing.assert_close(shown.hidden, plain.hidden)
    for number, fused in zip((2, 0), shown.projections, strict=True):
        torch.testing.assert_close(fused, model.layers[number].attention.project(plain.states[number]))
    assert plain.projections == ()
    with pytest.raises(UsageError, match="there are 0 to 3"):
        model(view, expose=(4,))
    model.remat = True
    again = model(view, expose=(2,))
    again.projections[0].sum().backward()
    assert np.isfinite(float(model.layers[0].feed_forward.up.weight.grad.sum()))
