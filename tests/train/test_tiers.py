"""Checkpoints of what offloading tiers keep: saved from there a shard at a time, and loaded back to there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring import parallel
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.parallel import Plan
from mainspring.train import checkpoint as ck
from mainspring.train.events import CheckpointSaved, StepDone
from train.tiny import fit, recipe

CONFIG = TransformerConfig(d_model=16, n_heads=2, n_layers=2, d_ff=32, vocab_size=64, max_positions=16)


def spread(plan: Plan) -> torch.nn.Module:
    with torch.device("meta"):
        model = Transformer(CONFIG)
    parallel.apply(model, plan)
    parallel.materialize(model, "cpu", lambda module: initialize(module, seed=1))
    return model


def tiers(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {
        "disk": {"zero": 3, "offload": "disk", "offload_folder": str(tmp_path / "tier")},
        "host": {"zero": 2, "offload": "host"},
        "delayed": {"zero": 1, "offload": "host", "offload_delay": 0},
    }


def test_a_tier_is_opened_once_a_shard_and_nothing_is_copied(tmp_path: Path) -> None:
    model = spread(Plan(**tiers(tmp_path)["disk"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.ones(parameter.shape)
    optimizer.step()
    engine = parallel.strategy.strategy_of(model)
    opened, honest = [], engine.placement.opened

    def counted(shard: Any, *rest: Any, **options: Any) -> Any:
        opened.append(shard.name)
        return honest(shard, *rest, **options)

    engine.placement.opened = counted
    state = ck.run_state(model, optimizer)
    assert not opened, "names and shapes need no reading"
    path = ck.save(tmp_path / "run", 1, state, {})
    names = [shard.name for shard in parallel.shards(model)]
    assert sorted(opened) == sorted(names) and len(names) == 3
    whole = parallel.full_state(model)
    saved = ck.load_model_state(path)
    for name, value in saved.items():
        assert torch.equal(value, whole[name]), name
    moments = [n for n in ck.Manifest.read(path).tensors if n.endswith("exp_avg_sq")]
    assert len(moments) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("kind", "optimizer"), [("disk", "adamw"), ("disk", "lamb"), ("host", "adamw"), ("delayed", "adamw")]
)
def test_a_run_resumes_from_its_checkpoint_to_the_bit(
    data: Path, tmp_path: Path, kind: str, optimizer: str
) -> None:
    same = {
        "train__steps": 5,
        "optim__kind": optimizer,
        "optim__schedule": {"kind": "constant"},
        "train__checkpoint_every": 3,
    }
    plan = tiers(tmp_path)[kind]

    def run(folder: str, steps: int, plan: dict[str, Any]) -> dict[int, float]:
        wanted = recipe(data, **{**same, "train__steps": steps}).replace(plan=plan)
        _, told, _ = fit(wanted, tmp_path / folder)
        assert any(isinstance(e, CheckpointSaved) for e in told)
        return {e.step: e.loss for e in told if isinstance(e, StepDone)}

    whole = run("whole", 5, plan)
    part, rest = run("part", 3, plan), run("part", 5, plan)
    assert part | rest == whole and list(rest) == [4, 5]
    if kind != "delayed":  # any plan goes on from it, and it from any
        run("memory", 3, {})
        assert run("memory", 5, plan) == pytest.approx(rest, abs=1e-5)
        again = run("part2", 3, plan) | run("part2", 5, {})
        assert again == pytest.approx(whole, abs=1e-5)
