"""Text and pairs in one batch: each as if alone, nothing counted where there is none, owners and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import TokenBatch
from mainspring.data.token_row import collate, rows_of
from mainspring.errors import ConfigError
from mainspring.nn import Transformer, initialize
from mainspring.objectives import (
    Evolves,
    Mixed,
    MixedConfig,
    Objective,
    OwnsModules,
    SeveralPasses,
    build,
    network_state,
)
from mainspring.objectives.config import predicted_share
from objectives.pairs import FULL, network, pairs, rows_from
from objectives.test_masked import generators, text

CONTRAST = {"kind": "xlco", "layer": 2, "queue": 9, "momentum": 0.9}
RTD = {"kind": "rtd", "generator": {"n_layers": 1}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "infoxlm": ({"kind": "mlm"}, CONTRAST),
    "xlm": ({"kind": "mlm"}, {"kind": "tlm"}),
    "xlm_e": (RTD, {**RTD, "text": "pairs"}),
    "zcode": ({"kind": "dae"}, {"kind": "mt"}),
    "unicoder": ({"kind": "mlm"}, {"kind": "unicoder"}),
    "unilm": ({"kind": "unilm"}, {"kind": "s2s"}),
    "prefix": ({"kind": "clm"}, {"kind": "prefix"}),
    "pmlm": ({"kind": "pmlm"}, {"kind": "s2s", "mode": "masked"}),
}


def mixed(name: str, **weights: float) -> Mixed:
    one, two = CASES[name]
    config = parse(MixedConfig, {"kind": "mixed", "text": one, "pairs": two, **weights})
    objective = build(config, FULL)
    assert isinstance(objective, Mixed)
    return objective


def model_for(name: str, objective: Mixed) -> torch.nn.Module:
    changes: dict[str, object] = {"head": "replaced"} if name == "xlm_e" else {}
    if name == "zcode":
        changes = {"n_layers": 0, "encoder_layers": 1, "decoder_layers": 1}
    model = initialize(objective.assemble(Transformer(network(**changes).config)), 0).eval()
    objective.start(model)
    return model


def both(rows: int = 6) -> tuple[TokenBatch, TokenBatch, TokenBatch]:
    """Rows of text and of pairs in turn, and each kind alone."""
    plain = [row._replace(labels=row.ids) for row in rows_of(text(rows, 20))]
    paired = rows_of(pairs(rows))
    turn = [row for couple in zip(plain, paired, strict=True) for row in couple]
    return collate(turn), collate(plain), collate(paired)


@pytest.mark.parametrize("name", CASES)
def test_each_kind_has_the_losses_that_it_has_alone(name: str) -> None:
    objective = mixed(name, text_weight=0.5, pairs_weight=3.0)
    model = model_for(name, objective)
    batch, plain, paired = both()
    rngs = generators(12)
    views = objective.build(batch, rngs)
    losses = objective.loss(model, views)
    assert {n: loss.count for n, loss in losses.items()} == objective.counts(views)
    fresh = generators(12)
    for kind, some, mine, weight in (("text", plain, fresh[0::2], 0.5), ("pairs", paired, fresh[1::2], 3.0)):
        alone = build(
            getattr(parse(MixedConfig, {"text": CASES[name][0], "pairs": CASES[name][1]}), kind), FULL
        )
        expected = alone.loss(model, alone.build(some, mine))
        assert expected
        for own, loss in expected.items():
            found = losses[f"{kind}.{own}"]
            assert found.count == loss.count > 0 and found.weight == weight * loss.weight
            torch.testing.assert_close(found.total, loss.total)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_one_kind_runs_both_and_counts_one(name: str) -> None:
    """Ranks with different rows run the same networks as often; what stands in gives no gradient."""
    objective = mixed(name)
    model = model_for(name, objective)
    batch, plain, paired = both()
    names = list(objective.loss(model, objective.build(batch, generators(12))))
    for some, kind, other in ((plain, "text", "pairs"), (paired, "pairs", "text")):
        views = objective.build(some, generators(6))
        counts = objective.counts(views)
        assert list(counts) == names
        assert all((count > 0) == n.startswith(kind) for n, count in counts.items())
        runs = objective.passes(model, views)
        assert len(runs) == len(objective.passes(model, objective.build(batch, generators(12))))
        for run in runs:
            model.zero_grad()
            losses = run()
            sum(loss.total for loss in losses.values()).backward()
            if next(iter(losses)).startswith(other):
                assert all(loss.total.item() == 0 and loss.count == 0 for loss in losses.values())
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                assert gradients and not any(g.any() for g in gradients)


def test_keys_of_what_stands_in_are_not_kept() -> None:
    objective = mixed("infoxlm")
    model = model_for("infoxlm", objective)
    _, plain, paired = both()
    objective.loss(model, objective.build(plain, generators(6)))
    objective.loss(model, objective.build(rows_from(paired, 0, 4), generators(4)))
    objective.after_step(model, lambda part: part, True)
    assert model.stored.item() == 4


def test_one_batch_equals_several() -> None:
    objective, (batch, _, _) = mixed("xlm"), both()
    model = model_for("xlm", objective)
    whole = objective.loss(model, objective.build(batch, generators(12)))
    sums = dict.fromkeys(whole, 0.0)
    for start, stop in ((0, 1), (1, 2), (2, 7), (7, 12)):
        views = objective.build(rows_from(batch, start, stop), generators(12)[start:stop])
        for name, loss in objective.loss(model, views).items():
            sums[name] += loss.total.item()
    assert sums == pytest.approx({name: loss.total.item() for name, loss in whole.items()}, rel=1e-5)


def test_owners_and_the_network() -> None:
    for name in CASES:
        objective = mixed(name)
        assert isinstance(objective, Objective) and isinstance(objective, SeveralPasses)
        assert isinstance(objective, OwnsModules) and isinstance(objective, Evolves)
        model = model_for(name, objective)
        plain = getattr(model, "network", model)
        state = network_state(objective, dict(model.state_dict()))
        Transformer(plain.config).load_state_dict(state)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="'rtd' both"):
        build(parse(MixedConfig, {"text": RTD, "pairs": {"kind": "tlm"}}), FULL)
    with pytest.raises(ConfigError, match=r"objective.text.embeddings = 'disentangled' and objective.pairs"):
        build(
            parse(MixedConfig, {"text": RTD, "pairs": {**RTD, "text": "pairs", "embeddings": "shared"}}), FULL
        )
    with pytest.raises(ConfigError, match="next_sentence_weight: beside pairs"):
        two = {"kind": "s2s"}
        build(parse(MixedConfig, {"text": {"kind": "unilm", "next_sentence_weight": 1}, "pairs": two}), FULL)
    with pytest.raises(ConfigError, match="pairs.text = 'plain'"):
        parse(MixedConfig, {"text": RTD, "pairs": RTD})
    with pytest.raises(ConfigError, match="kind"):
        parse(MixedConfig, {"text": {"kind": "tlm"}, "pairs": {"kind": "tlm"}})
    config = parse(MixedConfig, {"text": {"kind": "mlm", "rate": 0.2}, "pairs": {"kind": "tlm"}})
    assert predicted_share(config) == 0.2
