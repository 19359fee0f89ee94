"""Runs that begin with a model's weights: whence, into what, over ranks, and what is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mainspring.data.dataset import TokenData
from mainspring.data.pairs import PairData
from mainspring.errors import DataError, UsageError, WeightsError
from mainspring.objectives import GeneratorAndDiscriminator, MomentumContrast
from mainspring.parallel import World
from mainspring.recipes.exchange import export_run
from mainspring.recipes.forecast import check
from mainspring.train import Recipe
from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train.run import Run
from mainspring.train.setup import Setup, prepare
from mainspring.train.source import checkpoint_of
from support.spawn import run_ranks
from train.tiny import MACHINE, WORDS, build_data, fit, recipe

SHAPE = {
    "d_model": 16,
    "n_heads": 2,
    "n_layers": 2,
    "d_ff": 32,
    "max_positions": 32,
    "type_vocab": 2,
    "norm_place": "post",
    "embed_norm": True,
    "head_transform": True,
    "head_bias": True,
    "activation": "gelu",
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_data(tmp_path_factory.mktemp("words") / "data", "wordpiece", 120)


@pytest.fixture(scope="module")
def source(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model of a few steps."""
    folder = tmp_path_factory.mktemp("source") / "run"
    fit(model_of(words), folder)
    return folder


def model_of(data: Path, **changes: Any) -> Recipe:
    plain = recipe(data, kind="mlm", **changes)
    return plain.replace(model={"family": "bert", "config": SHAPE})


def setup(wanted: Recipe) -> Setup:
    with World.start(wanted.plan, device="cpu", threads=1) as world:
        return prepare(wanted, world, machine=MACHINE)


def weights(run: Path) -> dict[str, Tensor]:
    return ck.load_model_state(checkpoint_of(run)[1])


def test_from_a_run_a_checkpoint_and_exported_models(words: Path, source: Path, tmp_path: Path) -> None:
    newest = ck.latest(Run(source).checkpoints)
    places = [
        source,
        newest,
        export_run(source, tmp_path / "hf"),
        export_run(source, tmp_path / "own", "safetensors"),
    ]
    for place in places:
        begun = setup(model_of(words, train__init_from=str(place), train__seed=9))
        assert begun.drawn == ()
        for name, tensor in weights(source).items():
            assert torch.equal(begun.model.state_dict()[name], tensor), (place, name)
    fresh = setup(model_of(words, train__seed=9)).model.state_dict()
    assert not torch.equal(fresh["embeddings.token.weight"], weights(source)["embeddings.token.weight"])


def test_onto_long_rows_with_sparse_attention(words: Path, source: Path, tmp_path: Path) -> None:
    """The table of positions is repeated; the layers stay."""
    long = {**SHAPE, "max_positions": 80, "sparse": {"kind": "bigbird", "block": 8}}
    changes = {"train__init_from": str(source), "data__seq_len": 80, "train__batch_tokens": 160}
    wanted = model_of(words, **changes, train__steps=2).replace(model={"family": "bert", "config": long})
    table = weights(source)["embeddings.position.weight"]
    begun = setup(wanted).model.state_dict()
    assert torch.equal(begun["embeddings.position.weight"], torch.cat([table, table, table[:16]]))
    assert torch.equal(
        begun["layers.1.attention.qkv.weight"], weights(source)["layers.1.attention.qkv.weight"]
    )
    result, _, _ = fit(wanted, tmp_path / "run")
    assert result.step == 2
    with pytest.raises(WeightsError, match="is not a BERT: sparse"):
        export_run(tmp_path / "run", tmp_path / "hf")
    assert export_run(tmp_path / "run", tmp_path / "own", "safetensors").exists()


def test_into_a_contrast_whose_copy_begins_alike(words: Path, source: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    both = [(" ".join(draw.choices(WORDS, k=4)), " ".join(draw.choices(WORDS, k=4))) for _ in range(20)]
    pairs = PairData.encode(both, TokenData.open(words).tokenizer).save(tmp_path / "pairs")
    wanted = model_of(words, train__init_from=str(source), data__pairs=str(pairs))
    begun = setup(wanted.replace(objective={"kind": "xlco", "layer": 1, "queue": 8}))
    assert isinstance(begun.model, MomentumContrast)
    for name, tensor in weights(source).items():
        assert torch.equal(begun.model.network.state_dict()[name], tensor)
        assert torch.equal(begun.model.slow_network.state_dict()[name], tensor)


@pytest.mark.parametrize("embeddings", ["disentangled", "shared", "separate"])
def test_into_a_discriminator_with_a_head_of_its_own(
    words: Path, source: Path, tmp_path: Path, embeddings: str
) -> None:
    wanted = model_of(words, train__init_from=str(source), train__steps=1)
    shape = {**SHAPE, "head": "replaced", "embed_dim": 16}
    wanted = wanted.replace(
        objective={"kind": "rtd", "embeddings": embeddings}, model={"family": "electra", "config": shape}
    )
    begun = setup(wanted)
    assert isinstance(begun.model, GeneratorAndDiscriminator)
    state = begun.objective.network_state(begun.model.state_dict())  # type: ignore[attr-defined]
    for name, tensor in weights(source).items():
        if not name.startswith("head."):
            assert torch.equal(state[name], tensor), name
    assert begun.drawn and all(name.startswith("head.") for name in begun.drawn)
    _, told, _ = fit(wanted, tmp_path / "run")
    [warning] = [e.message for e in told if isinstance(e, ev.Warned)]
    assert "drawn anew: head." in warning


def over_ranks(rank: int, world: int, data: str, source: str, folder: str, zero: int) -> list[float]:
    wanted = model_of(Path(data), train__init_from=source, plan__data=world, plan__zero=zero, train__steps=2)
    _, told, _ = fit(wanted, Path(folder))
    return [e.loss for e in told if isinstance(e, ev.StepDone)]


@pytest.mark.distributed
@pytest.mark.parametrize("zero", [0, 3])
def test_over_ranks(words: Path, source: Path, tmp_path: Path, zero: int) -> None:
    alone = over_ranks(0, 1, str(words), str(source), str(tmp_path / "one"), 0)
    two = run_ranks(over_ranks, 2, str(words), str(source), str(tmp_path / "two"), zero)[0]
    assert two == pytest.approx(alone, rel=1e-5)


def test_a_resumed_run_no_longer_needs_it(words: Path, source: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(source, tmp_path / "moved")
    steady = {"optim__schedule": {"kind": "constant"}, "train__init_from": str(moved)}
    whole, _, _ = fit(model_of(words, **steady), tmp_path / "whole")
    fit(model_of(words, **steady, train__steps=4), tmp_path / "parts")
    shutil.rmtree(moved)
    parts, _, _ = fit(model_of(words, **steady), tmp_path / "parts")
    assert parts.step == whole.step == 6 and parts.loss == whole.loss


def test_what_does_not_fit_is_refused(words: Path, source: Path, tmp_path: Path) -> None:
    deeper = model_of(words, train__init_from=str(source))
    deeper = deeper.replace(model={"family": "bert", "config": {**SHAPE, "n_layers": 3, "max_positions": 24}})
    with pytest.raises(WeightsError) as refused:
        setup(deeper)
    for part in ("only here: layers.2.", "embeddings.position.weight: there [32, 16], here [24, 16]"):
        assert part in str(refused.value)
    shallow = model_of(words, train__init_from=str(source))
    shallow = shallow.replace(model={"family": "bert", "config": {**SHAPE, "n_layers": 1}})
    with pytest.raises(WeightsError, match=r"only there: layers\.1\."):
        setup(shallow)
    other = build_data(tmp_path / "other", "wordpiece", 100)
    with pytest.raises(DataError, match="another tokenizer than data.path"):
        setup(model_of(other, train__init_from=str(source)))
    for ask in (check, setup):
        with pytest.raises(UsageError, match=r"train.init_from: .* neither a run .* nor a model"):
            ask(model_of(words, train__init_from=str(tmp_path / "nothing")))
