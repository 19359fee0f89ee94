"""Progressive layer dropping: the published schedule, a reference stack, and runs that go on to the bit."""

import copy
import math
import shutil

import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import causal_batch
from mainspring.errors import ConfigError, PlanError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.block import Gates
from mainspring.parallel import Plan
from mainspring.train import checkpoint as ck
from mainspring.train.events import StepDone
from mainspring.train.layer_drop import (
    LayerDropConfig,
    check_layer_drop,
    draw,
    keep_probability,
    kept_share,
    set_gates,
    theta,
)
from mainspring.train.narrow.config import MixtureTraining
from train.tiny import fit, recipe

PUBLISHED = LayerDropConfig(decay=0.001)


def test_the_published_schedule():
    values = [theta(step, PUBLISHED, 1) for step in (0, 1000, 3000, 10**6)]
    assert values == pytest.approx([1.0, 0.684, 0.525, 0.5], abs=5e-4)
    assert theta(300, LayerDropConfig(), 100_000) == theta(300, PUBLISHED, 1)  # 100 / T
    curve = [theta(step, PUBLISHED, 1) for step in range(0, 5000, 50)]
    assert curve == sorted(curve, reverse=True)
    chances = [keep_probability(layer, 12, 0.5) for layer in range(12)]
    assert chances == sorted(chances, reverse=True) and chances[-1] == 0.5 and chances[0] == 1 - 0.5 / 12
    # Zhang and He: a quarter of the layers' work; spec/systems.md B4 and field.md give these shares.
    assert kept_share(PUBLISHED, 12, 10_000) == pytest.approx(0.756, abs=1e-3)
    assert kept_share(PUBLISHED, 12, 100_000) == pytest.approx(0.732, abs=1e-3)


def test_draws():
    assert draw(PUBLISHED, 3, 0, 0, 10) == [Gates()] * 3  # nothing is dropped at first
    late = draw(PUBLISHED, 12, 7, 10**6, 1)
    assert late == draw(PUBLISHED, 12, 7, 10**6, 1)
    assert late != draw(PUBLISHED, 12, 7, 10**6 + 1, 1) != draw(PUBLISHED, 12, 8, 10**6 + 1, 1)
    many = [draw(PUBLISHED, 4, 0, 10**6 + step, 1) for step in range(4000)]
    for layer, keep in enumerate([0.875, 0.75, 0.625, 0.5]):
        for part in range(3):
            factors = torch.tensor([gates[layer][part] for gates in many], dtype=torch.float64)
            assert set(factors.tolist()) == {0.0, 1 / keep}
            assert factors.mean() == pytest.approx(1.0, abs=0.06)  # what is kept makes up for what is not
    apart = sum(gates[3].attention != gates[3].feed_forward for gates in many)
    assert 1700 < apart < 2300
    whole = LayerDropConfig(unit="layer", decay=0.001)
    assert all(len(set(gates)) == 1 for step in range(50) for gates in draw(whole, 4, 0, 10**6 + step, 1))


def network(**other):
    values = {"d_model": 16, "n_heads": 2, "n_layers": 3, "d_ff": 24, "vocab_size": 31, "max_positions": 12}
    return initialize(Transformer(TransformerConfig(**values, **other)), 0)


def reference(model, batch, gates):
    """The switchable pre-norm stack written out (Zhang and He 2020)."""
    sight = model._sight(batch, None, model._inspect(batch), None)
    x = model.embed(batch)
    for block, gate in zip(model.layers, gates, strict=True):
        if gate.attention:
            x = x + gate.attention * block.attention(block.attention_norm(x), sight)
        if gate.feed_forward:
            x = x + gate.feed_forward * block.feed_forward(block.feed_forward_norm(x))
    return model.norm(x)


@pytest.mark.parametrize("remat", [False, True])
def test_a_stack_with_dropped_layers_is_the_reference(remat):
    model = network().train()
    model.remat = remat
    batch = causal_batch(torch.arange(24).view(2, 12))
    seen = set()
    for step in range(12):
        set_gates(model, PUBLISHED, 0, 10**6 + step, 1)
        gates = draw(PUBLISHED, 3, 0, 10**6 + step, 1)
        other = copy.deepcopy(model)
        got, want = model(batch).hidden, reference(other, batch, gates)
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
        model.zero_grad()
        got.square().sum().backward()
        want.square().sum().backward()
        theirs = dict(other.named_parameters())
        for name, parameter in model.named_parameters():
            if name.startswith("head"):
                continue
            if theirs[name].grad is None:
                assert parameter.grad is None, name
                seen.add(name.split(".")[2])
            else:
                torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)
    assert {"attention", "feed_forward"} <= seen
    model.eval()
    plain = network().eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(batch).hidden, plain(batch).hidden)  # evaluation knows nothing of it


def test_both_stacks_have_layers_of_their_own():
    model = network().config.replace(n_layers=0, encoder_layers=2, decoder_layers=4)
    model = initialize(Transformer(model), 0)
    set_gates(model, PUBLISHED, 0, 10**6 + 3, 1)
    assert [b.gates for b in model.encoder] == draw(PUBLISHED, 2, 0, 10**6 + 3, 1, 0)
    assert [b.gates for b in model.layers] == draw(PUBLISHED, 4, 0, 10**6 + 3, 1, 1)


DROPPING = {"train__layer_drop": {"floor": 0.3, "decay": 1.0}, "optim__schedule": {"kind": "constant"}}


def test_a_run_goes_on_to_the_bit(data, tmp_path):
    wanted = recipe(data, **DROPPING)
    curves = {}
    for run, steps in (("whole", 6), ("part", 4), ("rest", 6)):
        if run == "rest":
            shutil.copytree(tmp_path / "part", tmp_path / "rest")
        train = {**wanted.train.model_dump(mode="json"), "steps": steps}
        _, told, trainer = fit(wanted.replace(train=train), tmp_path / run)
        curves[run] = {e.step: e.loss for e in told if isinstance(e, StepDone)}
    assert curves["part"] | curves["rest"] == curves["whole"] and list(curves["rest"]) == [5, 6]
    ends = [ck.load_model_state(tmp_path / run / "checkpoints/step-00000006") for run in ("whole", "rest")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    plain = fit(recipe(data, optim__schedule={"kind": "constant"}), tmp_path / "plain")[1]
    losses = {e.step: e.loss for e in plain if isinstance(e, StepDone)}
    assert losses[1] == curves["whole"][1] and losses[6] != curves["whole"][6]  # theta(0) = 1
    assert any(gate != 1.0 for block in trainer.setup.model.layers for gate in block.gates)


def test_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="layer_drop.floor"):
        recipe(data, train__layer_drop={"floor": 0.0})
    with pytest.raises(ConfigError, match='needs norm_place = "pre"'):
        shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "norm_place": "post"}
        fit(recipe(data, model__config=shape, **DROPPING), tmp_path)
    with pytest.raises(PlanError, match="which move its weights by old moments"):
        fit(recipe(data, plan__zero=2, plan__backend="fsdp2", **DROPPING), tmp_path)
    experts = {"count": 4, "every": 1}
    with pytest.raises(ConfigError, match="balance of experts"):
        check_layer_drop(network(experts=experts).config, Transformer, Plan())
    with pytest.raises(ConfigError, match="trains a Linear"):
        check_layer_drop(network().config, torch.nn.Linear, Plan())
    with pytest.raises(ConfigError, match="measures the curvature of every layer"):
        check_layer_drop(network().config, Transformer, Plan(), MixtureTraining())
    assert parse(LayerDropConfig, {}).decay is None and math.isclose(PUBLISHED.floor, 0.5)
