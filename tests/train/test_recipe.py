"""Recipes: one tree, TOML and back, errors that name the field, and what makes two runs the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainspring.config import apply_overrides, json_schema, load_toml, parse, to_toml
from mainspring.data.dataset import TokenData
from mainspring.errors import ConfigError
from mainspring.train import Recipe, Run
from mainspring.train.recipe import digest, identity
from train.tiny import build_data, recipe


def test_toml_round_trip(tmp_path: Path) -> None:
    for kind in ("clm", "mlm"):
        wanted = recipe(Path("data"), kind=kind, data__weights={"a": 0.5, "b/de": 0.5})
        (tmp_path / "r.toml").write_text(to_toml(wanted))
        assert load_toml(Recipe, tmp_path / "r.toml") == wanted
        run = Run(tmp_path)
        run.write_recipe(wanted)
        assert run.read_recipe() == wanted


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.stpes=3", "train.stpes: unknown key; did you mean 'steps'"),
        ("train.steps=0", "train.steps = 0: should be greater than or equal to 1"),
        ("train.precision=bf15", "did you mean 'bf16'"),
        ("objective.kind=clmm", "objective"),
        ("plan.zero=4", "plan.zero = 4"),
        ("optim.lr=fast", "optim.lr = 'fast'"),
    ],
)
def test_faults_name_the_field(override: str, said: str) -> None:
    plain = recipe(Path("data")).model_dump(mode="json")
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        parse(Recipe, apply_overrides(plain, [override]))


def test_every_field_is_documented() -> None:
    for name, section in json_schema(Recipe)["$defs"].items():
        if name in ("TrainConfig", "Recipe", "MaskedConfig", "CausalConfig"):
            assert all("description" in field for field in section["properties"].values()), name


def test_elastic_follows_the_ranks() -> None:
    fixed = recipe(Path("data"), plan__data=2)
    assert fixed.over(3) is fixed
    elastic = recipe(Path("data"), plan__data=2, plan__zero=2, train__elastic=True)
    assert elastic.over(3).plan.data == 3 and elastic.over(3).plan.zero == 2
    assert elastic.over(2) is elastic


def test_identity_is_what_decides_the_numbers(data: Path, tmp_path: Path) -> None:
    text, words = TokenData.open(data), TokenData.open(build_data(tmp_path, "wordpiece", 120))

    def of(source: TokenData = text, **changes: object) -> str:
        return digest(identity(recipe(Path("x"), **changes), source))

    same = of()
    assert of(plan__data=4) == of(train__steps=99) == of(optim__lr=0.5) == of(train__precision="bf16") == same
    others = [
        of(train__seed=9),
        of(train__batch_tokens=256),
        of(data__seq_len=8),
        of(data__alpha=0.5),
        of(kind="mlm"),
        of(words),
    ]
    assert len({same, *others}) == 7
