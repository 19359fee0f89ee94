"""What int8 and int4 cost a model that has learnt something, on text that it has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mainspring.config import parse
from mainspring.data import IGNORE, SourceConfig, TokenData, build, causal_batch, holdout_rows
from mainspring.infer import Engine, GenerateOptions
from mainspring.text import TokenizerSpec
from mainspring.train import Recipe
from train.tiny import fit

LENGTH = 64
CLEAR = 0.1
"""Nats by which a choice is ahead where rounding must not change it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 200,000 parameters after 150 steps on documentation, in a few seconds."""
    place = tmp_path_factory.mktemp("quality")
    source = SourceConfig(name="docstrings", path="embedded:docstrings", limit_bytes=400_000)
    build([source], TokenizerSpec(vocab_size=512), place / "data", holdout=0.1)
    values = {
        "name": "quality",
        "model": {
            "family": "gpt2",
            "config": {"d_model": 64, "n_heads": 4, "n_layers": 2, "d_ff": 256, "max_positions": LENGTH},
        },
        "data": {"path": str(place / "data"), "seq_len": LENGTH},
        "objective": {"kind": "clm"},
        "optim": {"lr": 5e-3, "schedule": {"kind": "cosine", "warmup_steps": 10}},
        "train": {"steps": 150, "batch_tokens": 1024, "checkpoint_every": 0, "threads": 1},
    }
    fit(parse(Recipe, values), place / "run")
    return place / "run"


def rows(run: Path) -> Tensor:
    """Held-out text, [R, LENGTH + 1]."""
    batches = holdout_rows(TokenData.open(run.parent / "data"), LENGTH)
    whole = [b for b in batches if b.labels is not None and bool((b.labels != IGNORE).all())]
    ids = torch.cat([torch.cat([b.ids, b.labels[:, -1:]], 1) for b in whole if b.labels is not None])
    return ids[:96]


@torch.inference_mode()
def said(run: Path, precision: str) -> Tensor:
    """Log-probabilities of what follows each token, [R, LENGTH, V]."""
    engine = Engine.load(run, precision=precision)
    logits: Tensor = engine.model(causal_batch(rows(run)[:, :-1])).logits
    return logits[..., : engine.vocabulary].float().log_softmax(-1)


@pytest.mark.parametrize(("precision", "most"), [("int8", 1.005), ("int4", 1.03)])
def test_perplexity_stays(run: Path, precision: str, most: float) -> None:
    wanted = rows(run)[:, 1:, None]
    exact, narrow = (float(-said(run, p).gather(-1, wanted).mean()) for p in ("fp32", precision))
    assert exact < 0.75 * float(torch.tensor(512.0).log()), "the model has learnt something"
    assert exact != narrow
    assert torch.tensor(narrow - exact).exp() < most


def test_int8_chooses_as_fp32_wherever_that_is_clear(run: Path) -> None:
    exact, narrow = said(run, "fp32"), said(run, "int8")
    best, second = exact.topk(2).values.unbind(-1)
    clear = best - second > CLEAR
    same = exact.argmax(-1) == narrow.argmax(-1)
    assert clear.float().mean() > 0.8
    assert bool(same[clear].all()) and same.float().mean() > 0.97


def test_int8_writes_the_same(run: Path) -> None:
    """Each text up to the first place at which fp32 itself is in two minds."""
    prompts = [row[:8].tolist() for row in rows(run)[:24]]
    options = GenerateOptions(max_tokens=24, logprobs=1 + 1)
    exact, narrow = (Engine.load(run, precision=p).generate(prompts, options) for p in ("fp32", "int8"))
    compared = 0
    for one, other in zip(exact, narrow, strict=True):
        for ours, theirs in zip(one.logprobs or (), other.logprobs or (), strict=False):
            (_, first), (_, second) = ours.top
            if first - second < CLEAR:
                break
            assert ours.token == theirs.token
            compared += 1
    assert compared > 100
