"""Objectives that own modules and go backward several times: trained, resumed, scored, exported, on ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.data.dataset import TokenData
from mainspring.evaluate.objective import score_run
from mainspring.models.hub import import_hf
from mainspring.nn import Transformer
from mainspring.recipes.exchange import export_run
from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train.run import Run
from support.spawn import run_ranks
from train.test_trainer_ranks import Curve
from train.tiny import build_data, fit, recipe

RTD: dict[str, Any] = {
    "kind": "rtd",
    "model__family": "electra",
    "model__config": {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "max_positions": 32},
    "model__preset": "tiny",
    "train__precision": "fp32",
}
RTD["model__config"]["embed_dim"] = 16


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token data with a mask token."""
    return build_data(tmp_path_factory.mktemp("objective") / "data", "wordpiece", 120)


def run(data: Path, folder: Path, **changes: Any) -> tuple[Curve, list[ev.Event]]:
    _, told, _ = fit(recipe(data, **{**RTD, **changes}), folder)
    return {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, ev.StepDone)}, told


@pytest.mark.parametrize("embeddings", ["disentangled", "shared"])
def test_a_run_resumes_is_scored_and_gives_its_network_away(
    words: Path, tmp_path: Path, embeddings: str
) -> None:
    objective = {"objective__embeddings": embeddings}
    _, told = run(words, tmp_path / "whole", train__eval_every=6, **objective)
    assert any(isinstance(e, ev.Evaluated) for e in told)
    names = {n for e in told if isinstance(e, ev.StepDone) for n in e.losses}
    assert names == {"mlm", "rtd"}
    first, _ = run(words, tmp_path / "parts", train__steps=4, optim__schedule={"kind": "constant"},
                   **objective)
    rest, _ = run(words, tmp_path / "parts", optim__schedule={"kind": "constant"}, **objective)
    again, _ = run(words, tmp_path / "at-once", optim__schedule={"kind": "constant"},
                   **objective)
    assert first | rest == again and list(rest) == [5, 6], "generator and its optimizer states are kept"
    newest = ck.latest(Run(tmp_path / "whole").checkpoints)
    assert newest is not None
    scored = score_run(Run(tmp_path / "whole"), newest, data=TokenData.open(words), seq_len=16)
    told_score = next(e for e in told if isinstance(e, ev.Evaluated))
    assert scored.loss == pytest.approx(told_score.loss, rel=1e-5)
    export_run(tmp_path / "whole", tmp_path / "hf")
    imported = import_hf(tmp_path / "hf")
    assert imported.config.head == "replaced"
    Transformer(imported.config).load_state_dict(imported.state)
    if embeddings == "disentangled":
        state = ck.load_model_state(newest)
        key = "embeddings.token.weight"
        rows = imported.state[key].shape[0]
        torch.testing.assert_close(
            imported.state[key], (state["generator." + key] + state["network." + key])[:rows]
        )


def over_ranks(rank: int, world: int, data: str, folder: str, changes: dict[str, Any]) -> Curve:
    return run(Path(data), Path(folder), plan__data=world, **changes)[0]


@pytest.mark.distributed
@pytest.mark.parametrize(("zero", "embeddings"), [(0, "disentangled"), (1, "shared"), (3, "disentangled")])
def test_it_is_the_same_over_ranks(words: Path, tmp_path: Path, zero: int, embeddings: str) -> None:
    changes = {"train__steps": 3, "train__checkpoint_every": 0, "objective__embeddings": embeddings}
    alone = over_ranks(0, 1, str(words), str(tmp_path / "one"), changes)
    two = run_ranks(over_ranks, 2, str(words), str(tmp_path / "two"), {**changes, "plan__zero": zero})[0]
    assert alone.keys() == two.keys()
    for step, (loss, norm) in alone.items():
        assert two[step] == pytest.approx((loss, norm), rel=1e-4)
