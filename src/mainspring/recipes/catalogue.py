"""The recipes that come with the package, found by name, and a person's own, found by path."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from mainspring.config import apply_overrides, load_toml, parse, read_toml
from mainspring.errors import ConfigError, suggest
from mainspring.train.recipe import Recipe
from mainspring.train.source import check_source
from mainspring.train.teacher import FIELD


def names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        p.name.removesuffix(".toml") for p in files(__package__).iterdir() if p.name.endswith(".toml")
    )


def path_of(name_or_path: str | Path) -> Path:
    """The TOML file of a recipe: a name of the package's, a file, or a run directory (its `recipe.toml`).

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if (path / "recipe.toml").is_file():
        return path / "recipe.toml"
    if str(name_or_path) in names():
        return Path(str(files(__package__))) / f"{name_or_path}.toml"
    if path.is_dir():
        raise ConfigError(
            f"{path}: a directory without recipe.toml is not a run; give a recipe (TOML file or name: "
            f"{', '.join(names())})"
        )
    raise ConfigError(
        f"recipe {str(name_or_path)!r}: there is no such file, and no recipe of that name; "
        f"{suggest(str(name_or_path), names())}"
    )


def load(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or path and apply dotted overrides (`train.steps=100`).

    Raises:
        ConfigError: there is no such recipe, or it or an override does not fit.
    """
    return load_toml(Recipe, path_of(name_or_path), overrides)


def load_student(name_or_path: str | Path, teacher: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe as that of a student: with its distillation, or, in place of another objective, the usual
    one.

    Args:
        name_or_path: the recipe.
        teacher: a run, a checkpoint or an exported model.
        overrides: dotted, as `load` takes them.

    Raises:
        ConfigError: there is no such recipe, or it or an override does not fit.
        UsageError: no model is there to learn from.
    """
    check_source(teacher, FIELD)
    path = path_of(name_or_path)
    values = read_toml(path)
    if values.get("objective", {}).get("kind") != "distill":
        values["objective"] = {"kind": "distill"}
    values["objective"]["teacher"] = str(teacher)
    return parse(Recipe, apply_overrides(values, overrides), source=str(path))
