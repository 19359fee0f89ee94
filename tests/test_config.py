"""Configuration: what is read is what is written, and a mistake is told so that it can be mended."""

import math
import tomllib
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from mainspring.config import Section, apply_overrides, json_schema, load_toml, parse, to_toml
from mainspring.errors import ConfigError
from mainspring.models import ModelConfig, resolve


class Red(Section):
    kind: Literal["red"] = "red"
    depth: int = 1


class Blue(Section):
    kind: Literal["blue"] = "blue"
    shade: float = Field(0.5, ge=0, le=1)


class Leaf(Section):
    steps: int = Field(10, ge=1)
    """Number of steps."""
    rate: float = 0.1
    name: str = "x"
    tags: tuple[str, ...] = ()
    note: str | None = None
    weights: dict[str, float] = {}


class Tree(Section):
    train: Leaf = Leaf()
    colour: Annotated[Red | Blue, Field(discriminator="kind")] = Red()


names = st.text(max_size=20)
leaves = st.builds(
    Leaf, steps=st.integers(1, 10**9), rate=st.floats(allow_nan=False, allow_infinity=False), name=names,
    tags=st.lists(names, max_size=3).map(tuple), note=st.none() | names,
    weights=st.dictionaries(names, st.floats(-1e6, 1e6), max_size=3),
)  # fmt: skip


@given(leaves)
def test_toml_round_trip(tmp_path_factory: pytest.TempPathFactory, leaf: Leaf) -> None:
    path = tmp_path_factory.mktemp("toml") / "t.toml"
    tree = Tree(train=leaf, colour=Blue(shade=0.25))
    path.write_text(to_toml(tree), encoding="utf-8", newline="")
    assert load_toml(Tree, path) == tree


def test_overrides_keep_types_and_reach_new_sections(tmp_path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("[train]\nsteps = 3\n")
    tree = load_toml(
        Tree, path, ["train.steps=7", "train.name=hello world", "train.tags=['a','b']", "colour.kind=blue"]
    )
    assert (tree.train.steps, tree.train.name, tree.train.tags) == (7, "hello world", ("a", "b"))
    assert tree.colour == Blue()


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"train": {"stps": 5}}, ["train.stps", "unknown key", "did you mean 'steps'?"]),
        ({"trian": {}}, ["trian", "did you mean 'train'?"]),
        ({"train": {"steps": "5"}}, ["train.steps", "'5'", "integer"]),
        ({"train": {"steps": 0}}, ["train.steps", "0", "greater than or equal to 1"]),
        ({"train": {"steps": 1.5}}, ["train.steps", "1.5", "integer"]),
        ({"train": {"tags": [1]}}, ["train.tags.0", "1", "string"]),
        ({"colour": {"kind": "blue", "shde": 1}}, ["shde", "did you mean 'shade'?"]),
        ({"colour": {"kind": "green"}}, ["colour", "green", "'red'", "'blue'"]),
        ({"train": {"steps": 0, "rate": "x"}}, ["train.steps", "train.rate"]),
    ],
)
def test_errors_name_field_value_and_remedy(values, parts) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Tree, values)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("override", ["train", "=3", "train.=3", ".steps=3"])
def test_malformed_override_shows_the_form(override) -> None:
    with pytest.raises(ConfigError, match="write it as section.field=value"):
        apply_overrides({}, [override])


def test_override_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="train.steps is not a section"):
        apply_overrides({"train": {"steps": 3}}, ["train.steps.more=1"])


def test_missing_and_broken_files_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load_toml(Tree, tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("[train\n")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML.*line 1"):
        load_toml(Tree, tmp_path / "broken.toml")


def test_sections_are_frozen_and_replace_validates() -> None:
    leaf = Leaf()
    with pytest.raises(Exception, match="frozen"):
        leaf.steps = 3
    assert leaf.replace(steps=4).steps == 4
    with pytest.raises(ConfigError, match="steps"):
        leaf.replace(steps=-1)


def test_schema_carries_types_defaults_and_descriptions() -> None:
    steps = json_schema(Leaf)["properties"]["steps"]
    assert steps == {
        "default": 10,
        "description": "Number of steps.",
        "minimum": 1,
        "title": "Steps",
        "type": "integer",
    }


def test_what_toml_cannot_say_is_refused_and_room_for_all_can_be_said() -> None:
    shape = {"d_model": 8, "n_heads": 1, "n_layers": 1, "d_ff": 8, "vocab_size": 9, "max_positions": 4}

    def model(factor: float | None) -> ModelConfig:
        experts = {"count": 2, "every": 1, "capacity_factor": factor}
        return ModelConfig(family="gpt2", config={**shape, "experts": experts})

    with pytest.raises(ConfigError, match="TOML cannot write it.*give inf"):
        to_toml(model(None))
    again = parse(ModelConfig, tomllib.loads(to_toml(model(math.inf))))
    for config in (model(None), again):
        experts = resolve(config, 9).experts
        assert experts is not None and experts.capacity_factor is None
