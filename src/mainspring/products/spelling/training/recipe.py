"""The settings of `mainspring spell train`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mainspring.config import Section, load_toml
from mainspring.errors import ConfigError, suggest


class SpellingRecipe(Section):
    """What `mainspring spell train` makes."""

    languages: tuple[str, ...] = ()
    """Tags; none: all."""


def load_recipe(name: str) -> SpellingRecipe:
    """A recipe by the name under which it ships, or from a TOML file.

    Raises:
        ConfigError: there is none, or it does not fit.
    """
    folder = Path(str(files("mainspring.recipes.spelling")))
    shipped = {path.stem: path for path in folder.glob("*.toml")}
    if name in shipped:
        return load_toml(SpellingRecipe, shipped[name])
    if not Path(name).is_file():
        raise ConfigError(f"recipe {name!r}: is neither a file nor one that ships; {suggest(name, shipped)}")
    return load_toml(SpellingRecipe, name)
