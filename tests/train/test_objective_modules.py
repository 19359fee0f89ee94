"""Objectives that own modules and go backward several times: trained, resumed, scored, exported, on ranks."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.data.dataset import TokenData
from mainspring.data.pairs import PairData
from mainspring.errors import CheckpointError, ConfigError, DataError
from mainspring.evaluate.objective import score_run
from mainspring.models.hub import import_hf
from mainspring.nn import Transformer
from mainspring.recipes.exchange import export_run
from mainspring.recipes.forecast import check
from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train.run import Run
from support.spawn import run_ranks
from train.test_trainer_ranks import Curve
from train.tiny import WORDS, build_data, fit, recipe

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
    first, _ = run(
        words, tmp_path / "parts", train__steps=4, optim__schedule={"kind": "constant"}, **objective
    )
    rest, _ = run(words, tmp_path / "parts", optim__schedule={"kind": "constant"}, **objective)
    again, _ = run(words, tmp_path / "at-once", optim__schedule={"kind": "constant"}, **objective)
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
@pytest.mark.parametrize(
    ("zero", "embeddings", "precision"),
    [(0, "disentangled", "fp32"), (1, "shared", "bf16"), (3, "disentangled", "fp32")],
)
def test_it_is_the_same_over_ranks(
    words: Path, tmp_path: Path, zero: int, embeddings: str, precision: str
) -> None:
    changes = {
        "train__steps": 3,
        "train__checkpoint_every": 0,
        "objective__embeddings": embeddings,
        "train__precision": precision,
    }
    alone = over_ranks(0, 1, str(words), str(tmp_path / "one"), changes)
    two = run_ranks(over_ranks, 2, str(words), str(tmp_path / "two"), {**changes, "plan__zero": zero})[0]
    assert alone.keys() == two.keys()
    for step, (loss, norm) in alone.items():
        assert two[step] == pytest.approx((loss, norm), rel=1e-4 if precision == "fp32" else 0.03)


@pytest.fixture(scope="module")
def pairs(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of the made-up words with their reversals as translations."""
    rng = random.Random(1)
    texts = [rng.choices(WORDS, k=rng.randint(2, 5)) for _ in range(90)]
    both = ((" ".join(text), " ".join(reversed(text))) for text in texts)
    folder = tmp_path_factory.mktemp("pairs")
    return PairData.encode(both, TokenData.open(words).tokenizer, langs=(0, 1)).save(folder)


CONTRAST = {"kind": "xlco", "layer": 1, "queue": 40, "momentum": 0.9}
SHAPE = {"d_model": 16, "n_heads": 2, "d_ff": 32, "max_positions": 64}


def over_pairs(
    rank: int,
    world: int,
    data: str,
    folder: str,
    pairs: str,
    changes: dict[str, Any],
    objective: dict[str, Any] = CONTRAST,
) -> Curve:
    """A run on pairs; with the contrast, queue, copy and network are one state."""
    model = {**SHAPE, "n_layers": 2, "type_vocab": 6}
    if objective["kind"] in ("dae", "mt"):
        model = {**SHAPE, "n_layers": 0, "encoder_layers": 1, "decoder_layers": 1}
    wanted = recipe(Path(data), plan__data=world, data__pairs=pairs, **changes)
    wanted = wanted.replace(objective=objective, model={"family": "bert", "config": model})
    _, told, _ = fit(wanted, Path(folder))
    return {e.step: (e.loss, e.grad_norm) for e in told if isinstance(e, ev.StepDone)}


def test_a_contrast_resumes_with_its_queue_and_copy(words: Path, pairs: Path, tmp_path: Path) -> None:
    steady = {"optim__schedule": {"kind": "constant"}, "data__pairs_per_row": 2, "train__eval_every": 6}
    at_once = over_pairs(0, 1, str(words), str(tmp_path / "one"), str(pairs), steady)
    first = over_pairs(0, 1, str(words), str(tmp_path / "two"), str(pairs), {**steady, "train__steps": 4})
    rest = over_pairs(0, 1, str(words), str(tmp_path / "two"), str(pairs), steady)
    assert first | rest == at_once and list(rest) == [5, 6]
    newest = ck.latest(Run(tmp_path / "two").checkpoints)
    assert newest is not None
    state = ck.load_model_state(newest)
    assert state["stored"].tolist() == [6 * 8] and state["queue"].any(1).all()
    fast, slow = state["network.embeddings.token.weight"], state["slow_network.embeddings.token.weight"]
    assert not torch.equal(fast, slow)


@pytest.mark.distributed
@pytest.mark.parametrize("zero", [0, 1, 3])
def test_a_contrast_is_the_same_over_ranks(words: Path, pairs: Path, tmp_path: Path, zero: int) -> None:
    changes = {"train__steps": 4, "train__checkpoint_every": 0}
    alone = over_pairs(0, 1, str(words), str(tmp_path / "one"), str(pairs), changes)
    over = {**changes, "plan__zero": zero}
    two = run_ranks(over_pairs, 2, str(words), str(tmp_path / "two"), str(pairs), over)[0]
    assert alone.keys() == two.keys()
    for step, (loss, norm) in alone.items():
        assert two[step] == pytest.approx((loss, norm), rel=1e-4)


@pytest.mark.distributed
def test_tasks_of_unicoder_are_the_same_over_ranks(words: Path, pairs: Path, tmp_path: Path) -> None:
    changes = {"train__steps": 3, "train__checkpoint_every": 0, "data__pairs_per_row": 2}
    task = {"kind": "unicoder"}
    alone = over_pairs(0, 1, str(words), str(tmp_path / "one"), str(pairs), changes, task)
    over = {**changes, "plan__zero": 3}
    two = run_ranks(over_pairs, 2, str(words), str(tmp_path / "two"), str(pairs), over, task)[0]
    assert alone.keys() == two.keys()
    for step, (loss, norm) in alone.items():
        assert two[step] == pytest.approx((loss, norm), rel=1e-4)


MIXED = {"kind": "mixed", "text": {"kind": "mlm"}, "pairs": CONTRAST, "pairs_weight": 0.5}
HALF = {"data__pairs_share": 0.5}


def test_text_and_pairs_in_one_run_resume_to_the_bit(words: Path, pairs: Path, tmp_path: Path) -> None:
    steady = {**HALF, "optim__schedule": {"kind": "constant"}, "train__eval_every": 6}
    at_once = over_pairs(0, 1, str(words), str(tmp_path / "one"), str(pairs), steady, MIXED)
    first = over_pairs(
        0, 1, str(words), str(tmp_path / "two"), str(pairs), {**steady, "train__steps": 4}, MIXED
    )
    moved = shutil.copytree(pairs, tmp_path / "moved")
    rest = over_pairs(0, 1, str(words), str(tmp_path / "two"), str(moved), steady, MIXED)
    assert first | rest == at_once and list(rest) == [5, 6]
    told = [json.loads(line) for line in Run(tmp_path / "one").metrics.read_text().splitlines()]
    steps = [e for e in told if e["event"] == "step_done"]
    assert set(steps[0]["losses"]) == {"text.mlm", "pairs.xlco", "pairs.tlm"}
    assert any(e["event"] == "evaluated" for e in told), "held-out text is scored, pairs are not"
    others = [(" ".join(WORDS[:3]), " ".join(WORDS[3:6]))] * 3
    other = PairData.encode(others, TokenData.open(words).tokenizer).save(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"of another run: pairs.all was"):
        over_pairs(0, 1, str(words), str(tmp_path / "two"), str(other), steady, MIXED)


@pytest.mark.distributed
@pytest.mark.parametrize("zero", [0, 3])
def test_text_and_pairs_are_the_same_over_ranks(words: Path, pairs: Path, tmp_path: Path, zero: int) -> None:
    """Batches of 8 rows, a fifth of them pairs: the two ranks have different numbers, and sometimes none."""
    changes = {"train__steps": 4, "train__checkpoint_every": 0, "data__pairs_share": 0.2}
    alone = over_pairs(0, 1, str(words), str(tmp_path / "one"), str(pairs), changes, MIXED)
    over = {**changes, "plan__zero": zero}
    two = run_ranks(over_pairs, 2, str(words), str(tmp_path / "two"), str(pairs), over, MIXED)[0]
    assert alone.keys() == two.keys()
    for step, (loss, norm) in alone.items():
        assert two[step] == pytest.approx((loss, norm), rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "data", "message"),
    [
        ({"kind": "tlm"}, {}, "'tlm' reads pairs of texts: write them with mainspring data pairs"),
        ({"kind": "rtd", "text": "pairs"}, {}, "'rtd' reads pairs"),
        ({"kind": "mlm"}, {"pairs": "there"}, "'mlm' reads rows of text; leave data.pairs out"),
        (MIXED, {"pairs": "there"}, "leaves no text for objective.kind = 'mixed'; try 0.5"),
        ({"kind": "tlm"}, {"pairs": "there", "pairs_share": 0.5}, "reads no text beside pairs"),
    ],
)
def test_an_objective_and_data_that_do_not_go_together_are_refused(
    words: Path, objective: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    wanted = recipe(words).replace(
        objective=objective, model={"family": "bert", "config": {**SHAPE, "n_layers": 2}}
    )
    with pytest.raises(ConfigError, match=message):
        check(wanted.replace(data={**wanted.data.model_dump(), **data}))


@pytest.mark.parametrize("kind", ["prefix", "s2s", "tlm", "mt", "pmlm", "unilm", "dae"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_other_objective_trains(
    words: Path, pairs: Path, tmp_path: Path, kind: str, precision: str
) -> None:
    """It goes through data, planner, steps and scoring; and it learns a little of so small a language."""
    changes: dict[str, Any] = {
        "train__steps": 8,
        "train__precision": precision,
        "data__seq_len": 24,
        "train__batch_tokens": 192,
        "optim__lr": 0.02,
    }
    where: str | None = str(pairs)
    if kind in ("pmlm", "unilm", "dae"):
        where, changes["train__eval_every"] = None, 8
    curve = over_pairs(0, 1, str(words), str(tmp_path), where, changes, {"kind": kind})  # type: ignore[arg-type]
    assert curve[8][0] < curve[1][0]


def test_pairs_of_another_tokenizer_are_refused(pairs: Path, tmp_path: Path) -> None:
    other = build_data(tmp_path / "data", "wordpiece", 90)
    with pytest.raises(DataError, match="another tokenizer"):
        over_pairs(0, 1, str(other), str(tmp_path / "run"), str(pairs), {"plan__zero": 0})


def test_pairs_are_checked_before_a_run_starts(words: Path, pairs: Path, tmp_path: Path) -> None:
    good = recipe(words, data__pairs=str(pairs)).replace(objective={"kind": "prefix"})
    check(good)
    with pytest.raises(DataError, match="no encoded pairs"):
        check(good.replace(data={**good.data.model_dump(), "pairs": str(tmp_path)}))
