"""Recipes of every family: published ones through the planner, tiny ones through the trainer and out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from mainspring.config import parse
from mainspring.data.dataset import TokenData
from mainspring.data.pairs import PairData
from mainspring.models import FAMILIES
from mainspring.models.exchange import Layout, import_model
from mainspring.nn import TransformerConfig
from mainspring.parallel import World
from mainspring.planner.parameters import count_parameters
from mainspring.recipes import load, names, path_of
from mainspring.recipes.exchange import export_run
from mainspring.recipes.forecast import check, forecast
from mainspring.text.train import Kind
from mainspring.train.events import Event, StepDone
from mainspring.train.trainer import Trainer
from support.machines import GPU
from support.tiny_run import build_data, sentences

TINY = [name for name in names() if name.endswith("-tiny")]
PUBLISHED = [name for name in names() if name not in TINY and name != "quickstart"]


def test_every_family_has_a_recipe() -> None:
    for chosen in (PUBLISHED, TINY):
        assert {load(name).model.family for name in chosen} == set(FAMILIES)


def test_twins_name_each_other() -> None:
    for name in TINY:
        [twin] = re.findall(r"tiny twin of ([a-z0-9-]+)", path_of(name).read_text(encoding="utf-8"))
        assert twin in PUBLISHED
        small, large = load(name), load(twin)
        assert small.model.family == large.model.family
        assert small.objective.kind == large.objective.kind
    assert len(TINY) == len(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_fit_and_have_their_presets_size(name: str) -> None:
    recipe = load(name)
    published = FAMILIES[recipe.model.family].presets[str(recipe.model.preset)]
    preset = parse(TransformerConfig, {**published.model_dump(mode="json"), **recipe.model.config})
    # Without the rows that pad a vocabulary to a multiple of 64.
    found = forecast(load(name, [f"model.config.vocab_rows={preset.rows}"]), GPU, local_ranks=8)
    estimate = found.prepared.estimate
    assert estimate.parameters.network == count_parameters(preset).total
    assert estimate.tokens_per_step == recipe.train.batch_tokens
    assert estimate.fits
    assert recipe.optim.schedule.warmup_steps < recipe.train.steps


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """Token data of both kinds that tiny recipes ask for."""
    kinds: tuple[Kind, ...] = ("bpe", "wordpiece")
    root = tmp_path_factory.mktemp("families")
    return {kind: build_data(root / kind, kind=kind) for kind in kinds}


@pytest.fixture(scope="module")
def pairs(data: dict[Kind, Path]) -> Path:
    """Made-up sentences with their words backwards for translations."""
    lines = sentences(7, 120).splitlines()
    both = ((line, " ".join(reversed(line.split()))) for line in lines)
    encoded = PairData.encode(both, TokenData.open(data["wordpiece"]).tokenizer, max_tokens=12)
    return encoded.save(data["wordpiece"].parent / "pairs")


@pytest.mark.parametrize("name", TINY)
def test_tiny_recipes_train_and_go_out(
    name: str, data: dict[Kind, Path], pairs: Path, tmp_path: Path
) -> None:
    machine = GPU.replace(device="cpu", memory=4 * 2**30, cores=2, ranks=1)  # measuring takes longer
    kind: Kind = "bpe" if load(name).objective.kind == "clm" else "wordpiece"
    recipe = load(
        name, [f'data.path="{data[kind]}"', "data.seq_len=32", "train.steps=3", "train.batch_tokens=128"]
    )
    if recipe.data.pairs is not None:
        recipe = recipe.replace(data={**recipe.data.model_dump(mode="json"), "pairs": str(pairs)})
    check(recipe)
    steps: list[StepDone] = []

    def keep(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(event)

    with World.start(recipe.plan) as world:
        result = Trainer(recipe, tmp_path / "run", world, [keep], machine=machine).fit()
    assert result.status == "finished"
    assert len(steps) == 3
    if recipe.objective.kind == "mixed":
        kinds = {loss.partition(".")[0] for loss in steps[0].losses}
        assert kinds - {"experts"} == {"text", "pairs"}
        assert ("experts" in kinds) == (recipe.model.family == "zcode_moe")
    assert all(math.isfinite(step.loss) and step.grad_norm > 0 for step in steps)

    # Of experts that are taken one a token Hugging Face has no model: those go out as they are.
    layout: Layout = "safetensors" if recipe.model.family == "zcode_moe" else "hf"
    out = import_model(export_run(tmp_path / "run", tmp_path / "out", layout), family=recipe.model.family)
    assert all(torch.isfinite(tensor).all() for tensor in out.state.values())


def test_data_commands_in_recipes_are_commands() -> None:
    for name in (*PUBLISHED, *TINY):
        recipe = load(name)
        [command] = re.findall(r"mainspring data build .*", path_of(name).read_text(encoding="utf-8"))
        assert f"--to {recipe.data.path} " in command + " "
        assert ("--tokenizer" in command) == (name in PUBLISHED)
        asked = re.findall(r"mainspring data pairs .*", path_of(name).read_text(encoding="utf-8"))
        if recipe.data.pairs is None:
            assert not asked
            continue
        [command] = asked
        assert f"--to {recipe.data.pairs} --tokenizer {recipe.data.path}" in command


@pytest.mark.parametrize("family", ["infoxlm", "xlm_e", "zcode", "zcode_moe"])
def test_families_of_text_and_pairs_train_on_both(family: str) -> None:
    for recipe in (load(name) for name in (*PUBLISHED, *TINY)):
        if recipe.model.family == family:
            assert recipe.objective.kind == "mixed" and recipe.data.pairs_share == 0.5


def test_the_page_of_models_lists_every_recipe() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/models/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| ([\w-]+-tiny) \| (\w+) ([\w.-]+) \| (\w+) \|", page, re.MULTILINE)
    assert sorted(row[0] for row in rows) == PUBLISHED
    assert sorted(row[1] for row in rows) == TINY
    for name, tiny, family, preset, kind in rows:
        recipe = load(name)
        assert (recipe.model.family, recipe.model.preset, recipe.objective.kind) == (family, preset, kind)
        assert f"tiny twin of {name}:" in path_of(tiny).read_text(encoding="utf-8")
