"""Recipes by name and by path; published ones against their papers' figures; tiny ones trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainspring.config import load_toml, to_toml
from mainspring.errors import ConfigError
from mainspring.parallel import World
from mainspring.recipes import load, names, path_of
from mainspring.recipes.differences import differences
from mainspring.recipes.forecast import forecast
from mainspring.train.recipe import Recipe
from mainspring.train.trainer import Trainer
from support.machines import GPU
from support.tiny_run import build_data, overrides


def test_names_are_those_of_the_files() -> None:
    assert names() == sorted(p.stem for p in path_of("quickstart").parent.glob("*.toml"))
    assert {"bert-base", "bert-tiny", "deberta-v3-base", "gpt2-small", "quickstart"} < set(names())


@pytest.mark.parametrize("name", names())
def test_a_recipe_reads_back_what_it_writes(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    assert recipe.name == name
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))
    assert load(tmp_path / "recipe.toml") == recipe
    assert load(tmp_path) == load_toml(Recipe, path_of(name))


@pytest.mark.parametrize(
    ("name", "millions", "tokens"), [("gpt2-small", 124.4, 512 * 1024), ("bert-base", 110.1, 256 * 512)]
)
def test_published_recipes_fit_their_papers_and_their_machine(
    name: str, millions: float, tokens: int
) -> None:
    found = forecast(load(name), GPU, local_ranks=8)
    estimate = found.prepared.estimate
    # BERT's paper counts 110 M with the pooler; tables are padded by up to 63 rows.
    assert estimate.parameters.total / 1e6 == pytest.approx(millions, rel=0.01)
    assert estimate.tokens_per_step == tokens
    assert estimate.fits
    assert found.config.vocab_size in (50257, 30522)


@pytest.mark.parametrize(("name", "kind"), [("gpt2-tiny", "bpe"), ("bert-tiny", "wordpiece")])
def test_tiny_recipes_train(name: str, kind: str, tmp_path: Path) -> None:
    data = build_data(tmp_path / "data", kind=kind)  # type: ignore[arg-type]
    losses: list[float] = []
    recipe = load(name, overrides(data, steps=12, batch_tokens=256))
    with World.start(recipe.plan) as world:
        result = Trainer(
            recipe,
            tmp_path / "run",
            world,
            [lambda event: losses.append(getattr(event, "loss", None) or 99.0)],
        ).fit()
    assert result.status == "finished"
    assert result.loss is not None
    assert result.loss < max(loss for loss in losses if loss < 99)


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'bert-base'"):
        load("bert-bas")
    with pytest.raises(ConfigError, match="a directory without recipe.toml"):
        load(tmp_path)


def test_differences_name_fields_and_values() -> None:
    one, two = (
        load("gpt2-tiny"),
        load("gpt2-tiny", ["train.steps=7", "data.weights={a=1.0}", "plan.remat=true"]),
    )
    assert differences(one, one) == []
    assert differences(one, two) == [
        ("data.weights.a", "nothing", "1.0"),
        ("plan.remat", "false", "true"),
        ("train.steps", "20", "7"),
    ]
